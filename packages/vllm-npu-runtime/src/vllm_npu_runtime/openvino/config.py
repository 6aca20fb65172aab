"""What a model is compiled with."""

from __future__ import annotations

from typing import Any

import torch

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.devices import KV_DTYPES
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.program import Program

NAMES = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.uint8: "u8",
    torch.uint4: "u4",
}


def compile_config(
    device: str, options: OpenVINOOptions, dtype: torch.dtype, kv: torch.dtype | None
) -> dict[str, Any]:
    """OpenVINO's properties for a device.

    Args:
        device: as OpenVINO names it.
        options: what the user chose.
        dtype: that the model computes in.
        kv: of a paged cache; None: the model's.

    Raises:
        ConfigurationError: an option of another device, or a cache that the precision forbids.
    """
    kind = device.split(".")[0]
    _check_device(kind, options)
    if kind == "NPU":
        return _npu(options)
    precision = options.precision or NAMES[dtype]
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if kind == "CPU":
        kv = kv or dtype
        computed = next(each for each, name in NAMES.items() if name == precision)
        if kv not in KV_DTYPES[computed]:
            allowed = ", ".join(NAMES[each] for each in KV_DTYPES[computed])
            raise ConfigurationError(
                f"KV cache dtype {NAMES.get(kv, kv)}: with arithmetic in {precision}, OpenVINO "
                f"keeps KV in {allowed}. Choose one of these."
            )
        config |= {
            "KV_CACHE_PRECISION": NAMES[kv],
            "ENABLE_CPU_PINNING": options.pinning,
        }
        if options.threads is not None:
            config["INFERENCE_NUM_THREADS"] = options.threads
    return config


def dtype_of(program: Program) -> torch.dtype:
    """What a program computes in: the most frequent floating dtype of its weights and inputs."""
    bindings = [*program.inputs, *program.outputs]
    found = [each.dtype for each in bindings if each.dtype in KV_DTYPES]
    return max(KV_DTYPES, key=found.count)


_NPU_ONLY = (
    "keep_blob",
    "turbo",
    "compilation_mode_params",
    "npuw",
    "npuw_devices",
    "npuw_online_pipeline",
    "npuw_fold",
    "npuw_dcoff_type",
)
_OTHERS_ONLY = {"CPU": ("threads", "pinning", "precision", "keep_blob"), "GPU": ("precision", "keep_blob")}


def _check_device(kind: str, options: OpenVINOOptions) -> None:
    allowed = _NPU_ONLY if kind == "NPU" else _OTHERS_ONLY.get(kind, ())
    refused = sorted(options.model_fields_set - set(allowed))
    if refused:
        raise ConfigurationError(
            f"Options {', '.join(refused)} of driver 'openvino' are not for {kind}, which takes "
            f"{', '.join(allowed)}. Leave them out."
        )
    if not options.npuw and (loose := sorted(n for n in options.model_fields_set if n.startswith("npuw_"))):
        raise ConfigurationError(
            f"Options {', '.join(loose)} of driver 'openvino' need 'npuw': true."
        )


def _npu(options: OpenVINOOptions) -> dict[str, Any]:
    keys = {
        "turbo": "NPU_TURBO",
        "compilation_mode_params": "NPU_COMPILATION_MODE_PARAMS",
        "npuw_devices": "NPUW_DEVICES",
        "npuw_online_pipeline": "NPUW_ONLINE_PIPELINE",
        "npuw_fold": "NPUW_FOLD",
        "npuw_dcoff_type": "NPUW_DCOFF_TYPE",
    }
    config = {
        key: getattr(options, name)
        for name, key in keys.items()
        if getattr(options, name) is not None
    }
    if options.npuw:
        config["NPU_USE_NPUW"] = "YES"
    return {key: _text(value) for key, value in config.items()}


def _text(value: object) -> object:
    return {True: "YES", False: "NO"}.get(value, value) if isinstance(value, bool) else value
