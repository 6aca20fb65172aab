"""Names under which vLLM finds what is ours."""

CONNECTOR = "NPUSessionConnector"
"""The KV connector, as vLLM's registry knows it."""
CONNECTOR_MODULE = "vllm_npu_models.snapshots.connector"
SCHEDULER = "vllm_npu_models.snapshots.scheduling.session_scheduler"
"""For vLLM's `scheduler_cls`."""

# Keys of the connector's configuration, beside those of the loader's.
ENABLED = "enabled"
BLOCK_SIZE = "block_size"
