"""The operator set: our operators beside ATen, in the namespace ``vllm_npu``.

Each has a schema, a fake version for tracing, an implementation on the host, and a
decomposition into ATen operators of static shape for drivers that don't know it. `ops.table`
lists them; importing it registers them with torch.
"""
