"""Mobilint's boards: models compiled to MXQ, run by the vendor's `qbruntime`."""
