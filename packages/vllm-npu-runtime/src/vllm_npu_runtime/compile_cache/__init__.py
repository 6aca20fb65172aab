"""Compiled graphs kept on disk for the next start."""
