"""The conformance kit: one set of checks that any driver must pass.

    pytest --pyargs vllm_npu_runtime.conformance --npu-device=<driver>[:<device>]

What a device doesn't declare in its `Capabilities` is skipped, and the skip says so. Expected
values come from dense PyTorch in float32, never from the suite's own operators.
"""
