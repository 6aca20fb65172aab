"""vLLM models that run in sessions: compiled ahead of time, with KV inside the runtime.

vLLM calls `register` in every process. Importing this package imports neither torch nor vllm.
"""

__version__ = "0.1.0"


def register() -> None:
    """Entry point `npu_models` of ``vllm.general_plugins``; calling it again changes nothing."""
    from vllm_npu_models.registration import register_all

    register_all()
