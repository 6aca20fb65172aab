"""Which device to run on: ``<driver>[:<device>]``, or ``auto``."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vllm_npu_runtime import drivers
from vllm_npu_runtime.errors import BrokenDriverError, ConfigurationError, NPUError

if TYPE_CHECKING:
    from vllm_npu_runtime.drivers.base import Capabilities, DeviceInfo, Driver

_logger = logging.getLogger("vllm.npu")

AUTO = "auto"
_FAST_HOST, _ANY_HOST = "openvino:CPU", "reference"


@dataclass(frozen=True)
class Device:
    """A device with the driver that serves it."""

    driver: Driver
    info: DeviceInfo

    @property
    def name(self) -> str:
        """``<driver>:<device>``, or ``<driver>`` for a driver's only device."""
        return f"{self.driver.name}:{self.info.name}" if self.info.name else self.driver.name

    @property
    def capabilities(self) -> Capabilities:
        """What the device can do."""
        return self.driver.capabilities(self.info.name)


def find(spec: str) -> Device:
    """The device that `spec` names, with its state of now.

    Args:
        spec: ``<driver>``, ``<driver>:<device>``, or ``auto`` for the first real NPU.

    Raises:
        ConfigurationError: unknown driver or device, or no NPU for ``auto``; the message names
            what is there and the way to run on the host.
    """
    if spec == AUTO:
        return _first_npu()
    driver_name, _, device_name = spec.partition(":")
    driver, found = drivers.devices(driver_name)
    if not found:
        raise ConfigurationError(f"Driver '{driver_name}' finds no device.")
    if not device_name:
        return Device(driver, found[0])
    for info in found:
        if info.name == device_name:
            return Device(driver, info)
    names = [f"{driver_name}:{info.name}" if info.name else driver_name for info in found]
    raise ConfigurationError.unknown("device", spec, names)


def for_host(names: Collection[str]) -> str:
    """What to choose of the devices that were found, where none is an NPU."""
    return _FAST_HOST if _FAST_HOST in names else _ANY_HOST


@cache
def _warn(line: str) -> None:
    _logger.warning("%s. The other drivers are asked.", line)


def _first_npu() -> Device:
    reasons, names = [], []
    for name in drivers.available():
        try:
            driver, found = drivers.devices(name)
            for info in found:
                device = Device(driver, info)
                if info.is_npu:
                    return device
                names.append(device.name)
        except NPUError as error:
            if isinstance(error, BrokenDriverError):
                _warn(str(error))  # another driver may find an NPU, and nobody would know
            reasons.append(f"{name}: {error}")
        else:
            reasons.append(f"{name}: no NPU")
    raise ConfigurationError(
        f"No NPU was found ({'; '.join(reasons) or 'no driver is installed'}). "
        f"To run on the host, set VLLM_NPU_DEVICE={for_host(names)}."
    )
