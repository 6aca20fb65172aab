"""What vLLM's sampler needs where logits and generators are the host's."""
