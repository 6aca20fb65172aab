"""Where KV blocks lie outside the process: a directory, or a shared store."""
