"""Prefix reuse: through our connector, in place of vLLM's own prefix cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_npu_models.configuration.loader_config import LoaderConfig
from vllm_npu_models.names import BLOCK_SIZE, CONNECTOR, ENABLED, SCHEDULER

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def connect(vllm_config: VllmConfig, loader: LoaderConfig) -> None:
    """Put the connector and its scheduler into the configuration, whether prefixes are to be kept
    or not: requests whose slots fail are reported through them too."""
    from vllm.config import KVTransferConfig

    cache = vllm_config.cache_config
    vllm_config.kv_transfer_config = KVTransferConfig(
        kv_connector=CONNECTOR,
        # vLLM holds back the blocks of a "kv_both" while a step is in flight.
        kv_role="kv_producer",
        kv_load_failure_policy="fail",
        kv_connector_extra_config={
            ENABLED: bool(cache.enable_prefix_caching),
            BLOCK_SIZE: cache.block_size,
            **{
                name: getattr(loader, name)
                for name in LoaderConfig.model_fields
                if name.startswith("prefix_cache_")
            },
        },
    )
    vllm_config.scheduler_config.scheduler_cls = SCHEDULER
    # vLLM's own finds nothing in a layer with state, and would only take time.
    cache.enable_prefix_caching = False
