"""A plain checkpoint quantized while it is loaded: ``--quantization npu_w4a16`` or `npu_w8a16`."""
