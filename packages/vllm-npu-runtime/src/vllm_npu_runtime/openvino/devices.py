"""The devices that OpenVINO finds, and what each of them can do."""

from __future__ import annotations

from functools import cache
from typing import Any

import openvino as ov
import psutil
import torch

from vllm_npu_runtime.drivers.base import Capabilities, DeviceInfo, KVContract
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.attention import BLOCK_SIZE
from vllm_npu_runtime.ops.packing import WEIGHT_FORMATS

PRECISIONS = {"FP32": torch.float32, "BF16": torch.bfloat16, "FP16": torch.float16}

# Best first: the smaller a cache, the fewer bytes a step reads, so the order is by exactness.
KV_DTYPES = {
    torch.float32: (torch.float32, torch.float16, torch.uint8, torch.uint4),  # type: ignore[attr-defined]
    torch.bfloat16: (torch.bfloat16, torch.uint8, torch.uint4),  # type: ignore[attr-defined]
    torch.float16: (torch.float16, torch.float32, torch.uint8, torch.uint4),  # type: ignore[attr-defined]
}


@cache
def core() -> ov.Core:
    """OpenVINO's entry point, one for the process."""
    return ov.Core()


def found() -> list[DeviceInfo]:
    """All devices, real NPUs first, and the CPU before GPUs."""
    order = {"NPU": 0, "CPU": 1}
    names = sorted(
        core().available_devices, key=lambda name: (order.get(name.split(".")[0], 2), name)
    )
    return [_info(name) for name in names]


def capabilities(device: str) -> Capabilities:
    """What a device can do; the CPU's precisions are those that the processor computes in.

    Raises:
        ConfigurationError: no such device.
    """
    known = core().available_devices
    if device not in known:
        listed = [f"openvino:{name}" for name in known]
        raise ConfigurationError.unknown("device", f"openvino:{device}", listed)
    if device.split(".")[0] == "NPU":
        return Capabilities(
            dtypes=(torch.float16,),
            kv_cache_dtypes=(torch.float16,),
            kv_contracts=(KVContract.GATHER,),
            stateful=True,
        )
    dtypes = precisions(device)
    kv_dtypes = dict.fromkeys(kv for dtype in dtypes for kv in KV_DTYPES[dtype])
    if device != "CPU":
        return Capabilities(
            dtypes=dtypes, kv_cache_dtypes=dtypes, kv_contracts=(KVContract.GATHER,)
        )
    return Capabilities(
        dtypes=dtypes,
        kv_cache_dtypes=tuple(sorted(kv_dtypes, key=lambda dtype: not dtype.is_floating_point)),
        kv_contracts=(KVContract.PAGED, KVContract.GATHER),
        kv_layout="opaque",
        static_shapes_only=False,
        dynamic_tokens=True,
        soft_cap=False,
        weight_formats=tuple(WEIGHT_FORMATS),
        block_sizes=(BLOCK_SIZE,),
        stateful=True,
    )


def precisions(device: str) -> tuple[torch.dtype, ...]:
    """The dtypes that a device computes in, finest last but one that halves the bytes first."""
    offered = core().get_property(device, "OPTIMIZATION_CAPABILITIES")
    order = ("BF16", "FP32", "FP16") if device == "CPU" else ("FP16", "FP32")
    return tuple(PRECISIONS[name] for name in order if name in offered)


def _info(name: str) -> DeviceInfo:
    full = str(_property(name, "FULL_DEVICE_NAME") or name)
    host = psutil.virtual_memory()
    if name.split(".")[0] == "NPU":
        total = int(_property(name, "NPU_DEVICE_TOTAL_MEM_SIZE") or host.total)
        used = int(_property(name, "NPU_DEVICE_ALLOC_MEM_SIZE") or 0)
        # A client's NPU works in the host's memory.
        return DeviceInfo(name, full, total, min(total - used, host.available), is_npu=True)
    if name.split(".")[0] == "GPU":
        total = int(_property(name, "GPU_DEVICE_TOTAL_MEM_SIZE") or host.total)
        return DeviceInfo(name, full, total, total, shares_host_memory=False)
    return DeviceInfo(name, full, host.total, host.available)


def free_memory(device: str) -> int:
    """Bytes of a device's memory that are free now."""
    return _info(device).free_memory


def _property(device: str, name: str) -> Any:
    """A property, or None where the device doesn't have it."""
    try:
        return core().get_property(device, name)
    except RuntimeError:
        return None


def fingerprint(device: str) -> str:
    """Changes with a device and its driver."""
    names = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "NPU_DRIVER_VERSION")
    return "-".join(str(_property(device, name) or "") for name in names)
