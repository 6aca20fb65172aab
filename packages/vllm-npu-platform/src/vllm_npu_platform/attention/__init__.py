"""Attention layers as operators of the runtime, with all that varies as graph inputs."""
