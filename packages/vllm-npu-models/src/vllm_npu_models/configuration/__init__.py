"""What the artifact and the user say, as settings of vLLM's scheduler and of the session."""
