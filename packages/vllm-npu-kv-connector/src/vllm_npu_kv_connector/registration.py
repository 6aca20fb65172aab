"""Everything that vLLM has to know of: the connector, its offloading spec, its tiers."""

from __future__ import annotations

from functools import cache

from vllm_npu_kv_connector.names import (
    CONNECTOR,
    CONNECTOR_MODULE,
    DIRECTORY_TIER,
    NIXL_CONNECTOR,
    NIXL_MODULE,
    REDIS_TIER,
    SPEC,
    SPEC_MODULE,
)


@cache
def register_all() -> None:
    """Register with vLLM, once in a process: it refuses a name the second time.

    All are names of classes that vLLM imports only when they are asked for.
    """
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.v1.kv_offload.factory import OffloadingSpecFactory
    from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

    KVConnectorFactory.register_connector(CONNECTOR, CONNECTOR_MODULE, CONNECTOR)
    KVConnectorFactory.register_connector(NIXL_CONNECTOR, NIXL_MODULE, NIXL_CONNECTOR)
    OffloadingSpecFactory.register_spec(SPEC, SPEC_MODULE, SPEC)
    tiers = "vllm_npu_kv_connector.tiers.manager"
    SecondaryTierFactory.register_tier(DIRECTORY_TIER, tiers, "DirectoryTier")
    SecondaryTierFactory.register_tier(REDIS_TIER, tiers, "RedisTier")
