"""Prefill in one engine, decode in another."""
