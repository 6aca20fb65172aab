"""Where KV blocks lie outside the process."""
