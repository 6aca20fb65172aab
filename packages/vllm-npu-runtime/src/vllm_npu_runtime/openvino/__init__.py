"""What driver ``openvino`` is made of; `vllm_npu_runtime.drivers.openvino` puts it together."""
