"""Our platform, with weights quantized on load (`npu_w8a16`)."""

from __future__ import annotations

from benchmarks.serving.contenders import vllm_npu


class Contender(vllm_npu.Contender):
    """As ours, with one option more."""

    packages = (*vllm_npu.Contender.packages, "vllm-npu-quantization")
    options = {"quantization": "npu_w8a16"}  # noqa: RUF012
