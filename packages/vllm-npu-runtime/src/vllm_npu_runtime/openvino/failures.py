"""OpenVINO's failures as our typed errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vllm_npu_runtime.errors import DeviceError, DeviceLostError, OutOfMemoryError

# OpenVINO raises RuntimeError for everything; what went wrong is in the text only.
_MEMORY = ("bad_alloc", "out of memory", "out_of_device_memory", "out_of_host_memory",
           "failed to allocate", "cannot allocate", "not enough memory")  # fmt: skip
_LOST = ("device_lost", "device lost", "context is lost")


@contextmanager
def typed(doing: str) -> Iterator[None]:
    """Raise what OpenVINO raises in a block as one of our errors.

    Args:
        doing: for the message, as in "Compiling 'tokens=64' for CPU".

    Raises:
        OutOfMemoryError, DeviceLostError, DeviceError: as they say.
    """
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(f"{doing}: out of memory.") from error
    except RuntimeError as error:
        if isinstance(error, DeviceError):
            raise
        text = str(error).lower()
        kind: type[DeviceError] = DeviceError
        if any(sign in text for sign in _MEMORY):
            kind = OutOfMemoryError
        elif any(sign in text for sign in _LOST):
            kind = DeviceLostError
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise kind(f"{doing}: {lines[-1] if lines else 'failed'}") from error
