"""Our platform, with weights quantized on load and activations of eight bits in decode."""

from __future__ import annotations

from benchmarks.serving.contenders import vllm_npu_w8a16


class Contender(vllm_npu_w8a16.Contender):
    """As with `npu_w8a16`, rounded activations need KV of eight bits."""

    options = {  # noqa: RUF012
        **vllm_npu_w8a16.Contender.options,
        "additional_config": {
            "npu": {"kv_cache_dtype": "uint8", "driver_options": {"dynamic_quantization": 32}},
        },
    }
