"""vLLM's quantization configs for our platform, under the names that checkpoints carry."""
