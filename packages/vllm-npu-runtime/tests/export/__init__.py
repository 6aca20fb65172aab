"""Compiling checkpoints to artifacts."""
