"""Artifacts: reading, checking and writing the directory."""
