"""KV that outlives the device: offloading tiers, and prefill and decode in separate engines.

vLLM calls `register` in every process. Importing this package imports neither torch nor vllm.
"""

__version__ = "0.1.0"


def register() -> None:
    """Entry point `npu_kv_connector` of ``vllm.general_plugins``; a second call does nothing."""
    from vllm_npu_kv_connector.registration import register_all

    register_all()
