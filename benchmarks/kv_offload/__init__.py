"""What KV outside the device saves, and what keeping it costs. `nox -s bench -- kv-offload`."""
