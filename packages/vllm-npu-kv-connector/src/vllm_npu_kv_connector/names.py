"""Names under which vLLM, its users and this package's parts know each other."""

CONNECTOR = "NPUConnector"
CONNECTOR_MODULE = "vllm_npu_kv_connector.connector"

NIXL_CONNECTOR = "NPUNixlConnector"
NIXL_MODULE = "vllm_npu_kv_connector.disaggregation.nixl"

SPEC = "NPUOffloadingSpec"
SPEC_MODULE = "vllm_npu_kv_connector.offloading.spec"

IDENTITY = "npu_identity"
"""Key in the connector's normalized configuration: what no other model's blocks share."""

DIRECTORY_TIER, REDIS_TIER = "npu_fs", "npu_redis"
"""Tier types as vLLM's factory knows them; users write `fs`, `redis` or `valkey`."""

RECOMPUTED = "vllm:kv_offload_npu_recomputed_requests"
SKIPPED_TIER = "vllm:kv_offload_npu_tier_skipped_requests"
"""Counters of the load policy's refusals, the second one by tier."""
