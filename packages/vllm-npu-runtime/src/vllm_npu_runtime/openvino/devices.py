"""The devices that OpenVINO finds, and what each of them can do."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Any

import openvino as ov
import psutil
import torch

from vllm_npu_runtime.asking import can_ask, in_child
from vllm_npu_runtime.drivers.base import Capabilities, DeviceInfo, KVContract
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.openvino.attention import BLOCK_SIZE
from vllm_npu_runtime.openvino.processor import closest, computed_dtypes
from vllm_npu_runtime.ops.packing import WEIGHT_FORMATS

GPU_PRECISIONS = {"FP16": torch.float16, "FP32": torch.float32}
"""By OpenVINO's names, best first."""
CPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of models that every processor runs, in its own arithmetic."""

# Best first: the smaller a cache, the fewer bytes a step reads, so the order is by exactness.
KV_DTYPES = {
    torch.float32: (torch.float32, torch.float16, torch.uint8, torch.uint4),  # type: ignore[attr-defined]
    torch.bfloat16: (torch.bfloat16, torch.uint8, torch.uint4),  # type: ignore[attr-defined]
    torch.float16: (torch.float16, torch.float32, torch.uint8, torch.uint4),  # type: ignore[attr-defined]
}


Properties = dict[str, dict[str, Any]]
"""Of every device that OpenVINO finds, by its name."""

_ASKED = (
    "FULL_DEVICE_NAME",
    "DEVICE_ARCHITECTURE",
    "OPTIMIZATION_CAPABILITIES",
    "NPU_DRIVER_VERSION",
    "NPU_DEVICE_TOTAL_MEM_SIZE",
    "NPU_DEVICE_ALLOC_MEM_SIZE",
    "GPU_DEVICE_TOTAL_MEM_SIZE",
)
_by_child: Properties | None = None


@cache
def core() -> ov.Core:
    """OpenVINO's entry point, one for the process. It is for those who compile: asking it for
    devices opens them, after which the process can't be forked."""
    return ov.Core()


def found() -> list[DeviceInfo]:
    """All devices, real NPUs first, and the CPU before GPUs."""
    order = {"NPU": 0, "CPU": 1}
    properties = _properties(now=True)
    names = sorted(properties, key=lambda name: (order.get(name.split(".")[0], 2), name))
    return [_info(name, properties[name]) for name in names]


def _properties(now: bool = False) -> Properties:
    """What OpenVINO says of its devices. As long as this process has no `core`, a child asks, and
    the answer is kept.

    Args:
        now: ask again, where a device's memory may have changed since; the host's isn't asked for.
    """
    global _by_child
    if core.cache_info().currsize or not can_ask():
        return _ask()
    if _by_child is None or (now and _by_child.keys() != {"CPU"}):
        _by_child = in_child("Asking OpenVINO for its devices", _ask)
    return _by_child


def _ask() -> Properties:
    properties: Properties = {}
    for device in core().available_devices:
        properties[device] = {}
        for name in _ASKED:
            with suppress(RuntimeError):  # The device doesn't have it.
                properties[device][name] = core().get_property(device, name)
    return properties


def capabilities(device: str) -> Capabilities:
    """What a device can do. A CPU serves models of every dtype, in the arithmetic that it has.

    Raises:
        ConfigurationError: no such device.
    """
    known = _properties()
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
    computed = precisions(device)
    if device != "CPU":
        return Capabilities(
            dtypes=computed, kv_cache_dtypes=computed, kv_contracts=(KVContract.GATHER,)
        )
    dtypes = tuple(dict.fromkeys([*computed, *CPU_DTYPES]))
    kv_dtypes = dict.fromkeys(kv for dtype in computed for kv in KV_DTYPES[dtype])
    return Capabilities(
        dtypes=dtypes,
        arithmetic={each: closest(each, computed) for each in dtypes if each not in computed},
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
    """The dtypes that a CPU or GPU computes in, best first.

    Raises:
        ConfigurationError: see `processor.computed_dtypes`.
    """
    offered = _properties()[device]["OPTIMIZATION_CAPABILITIES"]
    if device == "CPU":
        return computed_dtypes(offered)
    return tuple(dtype for name, dtype in GPU_PRECISIONS.items() if name in offered)


def _info(name: str, properties: dict[str, Any]) -> DeviceInfo:
    full = str(properties.get("FULL_DEVICE_NAME") or name)
    host = psutil.virtual_memory()
    if name.split(".")[0] == "NPU":
        total = int(properties.get("NPU_DEVICE_TOTAL_MEM_SIZE") or host.total)
        used = int(properties.get("NPU_DEVICE_ALLOC_MEM_SIZE") or 0)
        # A client's NPU works in the host's memory.
        return DeviceInfo(name, full, total, min(total - used, host.available), is_npu=True)
    if name.split(".")[0] == "GPU":
        total = int(properties.get("GPU_DEVICE_TOTAL_MEM_SIZE") or host.total)
        return DeviceInfo(name, full, total, total, shares_host_memory=False)
    return DeviceInfo(name, full, host.total, host.available)


def free_memory(device: str) -> int:
    """Bytes of a device's memory that are free now."""
    return _info(device, _properties(now=True).get(device, {})).free_memory


def fingerprint(device: str) -> str:
    """Changes with a device, its driver, and a processor's arithmetic.

    One that isn't there, as an NPU whose graphs NPUW runs on the host, has a fingerprint as well.
    """
    properties = _properties().get(device, {})
    names = ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "NPU_DRIVER_VERSION")
    parts = [str(properties.get(name) or "") for name in names]
    if device == "CPU":
        parts += [str(dtype).removeprefix("torch.") for dtype in precisions(device)]
    return "-".join(parts)
