"""Names that an artifact's writer, its readers and vLLM's plugins share."""

FORMAT_VERSION = 1
"""Of `npu_artifact.json`; raised whenever an older reader would misread a newer directory."""

MANIFEST = "npu_artifact.json"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
"""Every weight and constant, once: a safetensors file that the graphs point into."""
DECODER = "decoder"
LM_HEAD = "lm_head"

LOAD_FORMAT = "npu_session"
"""vLLM's `load_format` for a model that a session runs: it tells the platform that there are no
weights to load and no graphs to capture."""

# Fields of config.json, for vLLM's scheduler; see vllm_npu_models.
PREFILL_CHUNK_SIZE = "npu_prefill_chunk_size"
MAX_BATCH_SIZE = "max_batch_size"
BATCH_TOKENS = "npu_batch_tokens"
BLOCK_SIZE = "npu_block_size"
CORE_MODE = "core_mode"
MAX_MODEL_LEN = "npu_max_model_len"
