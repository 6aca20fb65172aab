"""Which KV connectors can be honoured.

vLLM calls a connector's per-layer hooks (`wait_for_layer_load`, `save_kv_layer`) inside the model,
where a static graph doesn't call them: nothing would be transferred, silently. So a connector must
say by the attribute `transfers_outside_graphs` that it does without, or be known to.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Any

from vllm_npu_platform.kv_cache import is_opaque
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.target import Target

NIXL = "NixlConnector"
"""vLLM's own for disaggregation; it moves whole blocks, before and after a step."""

SEVERAL = "MultiConnector"
"""vLLM's own around others, which are checked one by one."""

OPTION = "--kv-transfer-config"
FIX = (
    "Use NPUConnector or NPUNixlConnector of vllm-npu-kv-connector, "
    f"{NIXL}, or a {SEVERAL} of these."
)


def connector_problems(config: VllmConfig, target: Target) -> Iterator[str]:
    """A line for each connector that would transfer nothing, or can't be had."""
    transfer = config.kv_transfer_config
    if transfer is None or transfer.kv_connector is None:
        return
    if transfer.kv_connector == SEVERAL:
        for each in _children(config):
            yield from connector_problems(each, target)
        return
    try:
        connector = _class_of(config)
    except (ValueError, ImportError, AttributeError) as error:
        reason = str(error).removesuffix(".")
        yield f"{OPTION}: connector '{transfer.kv_connector}' can't be had: {reason}. {FIX}"
        return
    if transfer.kv_connector == NIXL:
        yield from _nixl_problems(config, target)
    elif not getattr(connector, "transfers_outside_graphs", False):
        yield (
            f"{OPTION}: connector '{transfer.kv_connector}' relies on hooks inside the layers, "
            f"which a static graph doesn't call; nothing would be transferred. {FIX}"
        )
    elif (check := getattr(connector, "check", None)) is not None:
        try:
            check(config)
        except ConfigurationError as error:
            yield from (f"{OPTION}: {line}" for line in str(error).splitlines())


def _nixl_problems(config: VllmConfig, target: Target) -> Iterator[str]:
    buffer = config.kv_transfer_config.kv_buffer_device
    if importlib.util.find_spec("nixl") is None:
        yield (
            f"{OPTION}: connector '{NIXL}' needs NIXL, which isn't installed. Run `pip install "
            "nixl`, or transfer through a shared tier of NPUConnector."
        )
    if buffer != "cpu":
        yield (
            f"{OPTION}: kv_buffer_device '{buffer}': KV is host memory here. Use 'cpu', or leave "
            "it out."
        )
    if config.model_config is not None and _opaque(config, target):
        yield (
            f"{OPTION}: connector '{NIXL}' takes blocks for contiguous, and {target.device.name} "
            "keeps them in its own layout: tokens would be wrong. Use NPUNixlConnector of "
            "vllm-npu-kv-connector."
        )


def _opaque(config: VllmConfig, target: Target) -> bool:
    try:
        return is_opaque(config, target)
    except ConfigurationError:  # of the contract, which other checks report
        return False


def _children(config: VllmConfig) -> Iterator[VllmConfig]:
    from vllm.config import KVTransferConfig

    for options in config.kv_transfer_config.kv_connector_extra_config.get("connectors", []):
        child = copy(config)
        child.kv_transfer_config = KVTransferConfig(**options)
        yield child


def _class_of(config: VllmConfig) -> Any:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    return KVConnectorFactory.get_connector_class(config.kv_transfer_config)
