"""What drivers find. A driver that fails is reported, not raised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from vllm_npu_runtime import drivers

if TYPE_CHECKING:
    from vllm_npu_runtime.drivers.base import DeviceInfo, Driver


class DeviceReport(BaseModel):
    """One device: what it is, what it can do, or why that couldn't be found out.

    Memory is in bytes; dtypes by their names in torch. `arithmetic` has the dtypes that are
    computed in another one, and in which.
    """

    name: str
    description: str
    is_npu: bool
    total_memory: int
    free_memory: int
    shares_host_memory: bool
    dtypes: list[str] = []
    arithmetic: dict[str, str] = {}
    kv_cache_dtypes: list[str] = []
    kv_contracts: list[str] = []
    static_shapes_only: bool | None = None
    max_batch_size: int | None = None
    max_tokens: int | None = None
    block_sizes: list[int] | None = None
    weight_formats: list[str] = []
    error: str | None = None

    @property
    def widens_everything(self) -> bool:
        """Whether models of 16 bits are computed in float32 here, whichever dtype they have."""
        short = [each for each in self.dtypes if each != "float32"]
        return bool(short) and all(self.arithmetic.get(each) == "float32" for each in short)


class DriverReport(BaseModel):
    """One driver: its version and devices, or why it fails."""

    name: str
    version: str | None = None
    devices: list[DeviceReport] = []
    error: str | None = None


def inventory(names: Iterable[str]) -> list[DriverReport]:
    """A report for each of these drivers."""
    return [_driver_report(name) for name in names]


def _driver_report(name: str) -> DriverReport:
    report = DriverReport(name=name)
    try:
        report.version = drivers.load(name).version()
        driver, found = drivers.devices(name)
        report.devices = [_device_report(driver, info) for info in found]
    except Exception as problem:  # a vendor's code: anything may come out of it
        report.error = _in_words(problem)
    return report


def _device_report(driver: Driver, info: DeviceInfo) -> DeviceReport:
    report = DeviceReport(
        name=f"{driver.name}:{info.name}" if info.name else driver.name,
        description=info.description,
        is_npu=info.is_npu,
        total_memory=info.total_memory,
        free_memory=info.free_memory,
        shares_host_memory=info.shares_host_memory,
    )
    try:
        can = driver.capabilities(info.name)
    except Exception as problem:
        report.error = _in_words(problem)
        return report
    report.dtypes = [_dtype(each) for each in can.dtypes]
    report.arithmetic = {_dtype(each): _dtype(wide) for each, wide in can.arithmetic.items()}
    report.kv_cache_dtypes = [_dtype(each) for each in can.kv_cache_dtypes]
    report.kv_contracts = [each.value for each in can.kv_contracts]
    report.static_shapes_only = can.static_shapes_only
    report.max_batch_size = can.max_batch_size
    report.max_tokens = can.max_tokens
    report.block_sizes = None if can.block_sizes is None else list(can.block_sizes)
    report.weight_formats = list(can.weight_formats)
    return report


def _dtype(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _in_words(problem: Exception) -> str:
    return str(problem) or type(problem).__name__
