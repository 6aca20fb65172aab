"""Where vLLM's code meets a host without a GPU."""
