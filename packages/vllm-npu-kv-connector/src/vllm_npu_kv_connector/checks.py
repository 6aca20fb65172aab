"""What is wrong with a connector's configuration, all of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_npu_kv_connector.names import CONNECTOR
from vllm_npu_kv_connector.options import ConnectorOptions
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_BOTH = "kv_both"


def checked(config: VllmConfig) -> ConnectorOptions:
    """The connector's options.

    Raises:
        ConfigurationError: a line for each problem.
    """
    transfer = config.kv_transfer_config
    problems = []
    if transfer.kv_role != _BOTH:
        problems.append(
            f"kv_role '{transfer.kv_role}': {CONNECTOR} stores and loads wherever it runs, also "
            f'where one engine prefills and another decodes. Set "kv_role": "{_BOTH}".'
        )
    if transfer.enable_permute_local_kv:
        problems.append("enable_permute_local_kv: blocks are stored as they are. Leave it out.")
    options = None
    try:
        options = ConnectorOptions.parse(transfer.kv_connector_extra_config)
    except ConfigurationError as error:
        problems.append(str(error))
    if problems or options is None:
        raise ConfigurationError("\n".join(problems))
    return options
