"""Compiling models ahead of time: from a Hugging Face checkpoint to an artifact."""
