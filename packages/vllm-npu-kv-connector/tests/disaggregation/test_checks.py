"""Bad configurations of the NIXL connector: all problems at once, each with its fix."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_npu_kv_connector.disaggregation.checks import OPTIONS, check_nixl
from vllm_npu_runtime.errors import ConfigurationError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say whether NIXL is installed."""

    def say(there: bool) -> None:
        spec = SimpleNamespace() if there else None
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    say(True)
    return say


def config_of(buffer: str = "cpu", **options: Any) -> Any:
    transfer = SimpleNamespace(kv_buffer_device=buffer, kv_connector_extra_config=options)
    return SimpleNamespace(kv_transfer_config=transfer)


@pytest.mark.usefixtures("installed")
def test_what_vllms_connector_reads_is_taken() -> None:
    options = dict.fromkeys(OPTIONS, 1) | {"enforce_handshake_compat": True}
    check_nixl(config_of(**options))


@pytest.mark.usefixtures("installed")
def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"kv_lease: unknown option\. Did you mean 'kv_"):
        check_nixl(config_of(kv_lease=3))


@pytest.mark.usefixtures("installed")
def test_a_handshake_that_compares_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="another model or driver would be taken over"):
        check_nixl(config_of(enforce_handshake_compat=False))


def test_all_problems_at_once(installed: Any) -> None:
    installed(False)
    with pytest.raises(ConfigurationError) as error:
        check_nixl(config_of(buffer="cuda", threads=2))
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "pip install nixl" in lines[0]
    assert "kv_buffer_device 'cuda'" in lines[1]
    assert "Did you mean 'num_threads'?" in lines[2]
