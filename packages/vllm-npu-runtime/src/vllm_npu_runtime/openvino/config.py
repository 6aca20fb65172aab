"""What a model is compiled with."""

from __future__ import annotations

import os
from typing import Any

import torch

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino import processor
from vllm_npu_runtime.openvino.devices import KV_DTYPES, precisions
from vllm_npu_runtime.openvino.options import OpenVINOOptions
from vllm_npu_runtime.program import Program

NAMES = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.uint8: "u8",
    torch.uint4: "u4",  # type: ignore[attr-defined]
}
ROUNDED = "f32"
"""Arithmetic around products whose activations are rounded to eight bits."""


def compile_config(
    device: str,
    options: OpenVINOOptions,
    dtype: torch.dtype,
    kv: torch.dtype | None,
    rounded: bool = False,
) -> dict[str, Any]:
    """OpenVINO's properties for a device.

    Args:
        device: as OpenVINO names it.
        options: what the user chose.
        dtype: of the model.
        kv: of a paged cache; None: the model's, or else the best that its arithmetic allows.
        rounded: whether to round activations as the option `dynamic_quantization` says, which
            must be given.

    Raises:
        ConfigurationError: an option of another device or processor, options that exclude each
            other, or a cache that the precision forbids.
    """
    kind = device.split(".")[0]
    _check_device(kind, options)
    if kind == "NPU":
        return _npu(options)
    if kind == "CPU":
        _check_processor(options)
    precision = options.precision or _arithmetic(kind, dtype)
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    if kind == "CPU":
        kv = _kv_dtype(options, precision, dtype, kv)
        config |= {
            "KV_CACHE_PRECISION": NAMES[kv],
            # Else activations in float32 are rounded to eight bits before packed weights.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            "ENABLE_CPU_PINNING": options.pinning,
        }
        config["INFERENCE_NUM_THREADS"] = host_threads(device, options)
    if rounded:
        config |= {
            # In bf16 the plugin ignores the group size.
            "INFERENCE_PRECISION_HINT": ROUNDED,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(options.dynamic_quantization),
        }
    return config


def _kv_dtype(
    options: OpenVINOOptions, precision: str, dtype: torch.dtype, kv: torch.dtype | None
) -> torch.dtype:
    """That of a CPU's paged cache; one that every arithmetic allows which the options lead to."""
    dtypes = {name: each for each, name in NAMES.items()}
    allowed = KV_DTYPES[dtypes[precision]]
    rounds = options.dynamic_quantization is not None
    if rounds:
        allowed = tuple(each for each in allowed if each in KV_DTYPES[dtypes[ROUNDED]])
    kv = kv or (dtype if dtype in allowed else allowed[0])
    if kv in allowed:
        return kv
    listed = ", ".join(NAMES[each] for each in allowed)
    if rounds and precision != ROUNDED:
        raise ConfigurationError(
            f"KV cache dtype {NAMES.get(kv, kv)}: with option 'dynamic_quantization' of driver "
            f"'openvino', OpenVINO computes in {precision} and {ROUNDED}, and keeps KV in what "
            f"goes with both: {listed}. Set kv_cache_dtype to 'uint8' "
            "(VLLM_NPU_KV_CACHE_DTYPE=uint8), or leave the option out."
        )
    raise ConfigurationError(
        f"KV cache dtype {NAMES.get(kv, kv)}: with arithmetic in {precision}, OpenVINO "
        f"keeps KV in {listed}. Choose one of these."
    )


def host_threads(device: str, options: OpenVINOOptions) -> int | None:
    """Threads of the host that a run takes: as many as this process has cores, on a CPU."""
    if device.split(".")[0] != "CPU":
        return None
    return options.threads or len(os.sched_getaffinity(0))


def _arithmetic(kind: str, dtype: torch.dtype) -> str:
    """What a model of a dtype is computed in, unless the user says otherwise."""
    return NAMES[processor.closest(dtype, precisions("CPU")) if kind == "CPU" else dtype]


def dtype_of(program: Program) -> torch.dtype:
    """Dtype of a program's model: the most frequent floating dtype of weights and inputs."""
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
_OTHERS_ONLY = {
    "CPU": ("threads", "pinning", "precision", "dynamic_quantization", "keep_blob"),
    "GPU": ("precision", "keep_blob"),
}


def _check_device(kind: str, options: OpenVINOOptions) -> None:
    allowed = _NPU_ONLY if kind == "NPU" else _OTHERS_ONLY.get(kind, ())
    refused = sorted(options.model_fields_set - set(allowed))
    if refused:
        raise ConfigurationError(
            f"Options {', '.join(refused)} of driver 'openvino' are not for {kind}, which takes "
            f"{', '.join(allowed)}. Leave them out."
        )
    if kind == "CPU" and options.precision == "f16":
        raise ConfigurationError(
            "Option 'precision' of driver 'openvino' is 'f16', in which OpenVINO's attention is "
            "wrong on CPU. Take 'f32' or 'bf16'."
        )
    if options.dynamic_quantization is not None and options.keep_blob:
        raise ConfigurationError(
            "Options 'dynamic_quantization' and 'keep_blob' of driver 'openvino' exclude each "
            "other: one compiled model is kept, and there would be two. Leave one out."
        )
    if not options.npuw and (
        loose := sorted(n for n in options.model_fields_set if n.startswith("npuw_"))
    ):
        raise ConfigurationError(
            f"Options {', '.join(loose)} of driver 'openvino' need 'npuw': true."
        )


def _check_processor(options: OpenVINOOptions) -> None:
    """Refuse what OpenVINO would take and this processor's kernels not do, without a word."""
    computed = [NAMES[dtype] for dtype in precisions("CPU")]
    if options.precision is not None and options.precision not in computed:
        raise ConfigurationError(
            f"Option 'precision' of driver 'openvino' is '{options.precision}': this processor "
            f"computes in {', '.join(computed)}. Choose one of these, or leave the option out: a "
            "model of any dtype runs in what the processor has."
        )
    group = options.dynamic_quantization
    if group is not None and not processor.rounds_activations():
        raise ConfigurationError(
            f"Option 'dynamic_quantization' of driver 'openvino' is {group}: it has no effect on "
            "this processor, which has no instructions for products of bytes (VNNI). Leave it out: "
            "weights stay packed without it."
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
