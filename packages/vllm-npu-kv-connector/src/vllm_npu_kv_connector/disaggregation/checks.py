"""What is wrong with the configuration of a NIXL connector, all of it at once."""

from __future__ import annotations

import importlib.util
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vllm_npu_kv_connector.names import NIXL_CONNECTOR
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

OPTIONS = (
    "backends",
    "bidirectional_kv_xfer",
    "decoder_kv_blocks_ttl",
    "engine_ttl",
    "enforce_handshake_compat",
    "kv_lease_duration",
    "kv_recompute_threshold",
    "num_threads",
)
"""What vLLM's connector reads; the rest it ignores."""

_PLACE = "kv_connector_extra_config"


def check_nixl(config: VllmConfig) -> None:
    """Check that NIXL is there, and that it can be run as was asked.

    Raises:
        ConfigurationError: a line for each problem.
    """
    transfer, problems = config.kv_transfer_config, []
    if importlib.util.find_spec("nixl") is None:
        problems.append(
            f"{NIXL_CONNECTOR} needs NIXL, which isn't installed. Run `pip install nixl`, or "
            "transfer through a shared tier of NPUConnector."
        )
    if transfer.kv_buffer_device != "cpu":
        problems.append(
            f"kv_buffer_device '{transfer.kv_buffer_device}': KV is host memory here. Use 'cpu', "
            "or leave it out."
        )
    options = transfer.kv_connector_extra_config
    for name in options:
        if name not in OPTIONS:
            near = get_close_matches(name, OPTIONS, n=1, cutoff=0.6)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            known = ", ".join(OPTIONS)
            problems.append(f"{_PLACE}.{name}: unknown option.{hint} Known: {known}.")
    if options.get("enforce_handshake_compat", True) is not True:
        problems.append(
            f"{_PLACE}.enforce_handshake_compat {options['enforce_handshake_compat']}: KV of "
            "another model or driver would be taken over. Leave it out."
        )
    if problems:
        raise ConfigurationError("\n".join(problems))
