"""What the executor counts, on its way from the worker's process to Prometheus."""
