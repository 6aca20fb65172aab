"""Registering: once, by name, and without disturbing what is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vllm_npu_kv_connector


def test_vllm_finds_the_connector_its_spec_and_its_tiers() -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.v1.kv_offload.factory import OffloadingSpecFactory
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

    vllm_npu_kv_connector.register()
    vllm_npu_kv_connector.register()
    connector = KVConnectorFactory.get_connector_class_by_name("NPUConnector")
    assert connector.__name__ == "NPUConnector"
    spec = OffloadingSpecFactory.get_spec_cls({"spec_name": "NPUOffloadingSpec"})
    assert spec.__name__ == "NPUOffloadingSpec"
    for name, wanted in (("npu_fs", "DirectoryTier"), ("npu_redis", "RedisTier")):
        assert SecondaryTierFactory.get_tier_class({"type": name}).__name__ == wanted


def test_vllms_own_connectors_stay_theirs() -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

    vllm_npu_kv_connector.register()
    offloading = KVConnectorFactory.get_connector_class_by_name("OffloadingConnector")
    assert offloading.__module__.startswith("vllm.")
    tier = SecondaryTierFactory.get_tier_class({"type": "fs"})
    assert tier.__module__.startswith("vllm.")


@pytest.mark.parametrize("module", ["torch", "vllm", "redis"])
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, vllm_npu_kv_connector; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_entry_point() -> None:
    from importlib.metadata import entry_points

    found = entry_points(group="vllm.general_plugins", name="npu_kv_connector")
    assert [each.load() for each in found] == [vllm_npu_kv_connector.register]
