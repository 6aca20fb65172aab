"""The runtime's only exception becomes one of our types by what it says."""

from __future__ import annotations

import pytest

from vllm_npu_runtime.errors import (
    BadShapeError,
    ConfigurationError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    NPUError,
    OutOfMemoryError,
)
from vllm_npu_runtime.mobilint.failures import typed

from .fake import QbRuntimeError


@pytest.mark.parametrize(
    ("status", "running", "opening"),
    [
        ("BadAlloc", OutOfMemoryError, OutOfMemoryError),
        ("Driver_FailedToAllocateModelMemory", OutOfMemoryError, OutOfMemoryError),
        ("Acc_NPUTimeout", DeviceTimeoutError, DeviceTimeoutError),
        ("Model_NotAlive", DeviceLostError, DeviceLostError),
        ("Acc_DeviceNotFound", DeviceLostError, ConfigurationError),
        ("Model_BrokenMXQ", DeviceError, ConfigurationError),
        ("Model_CacheOverflow", BadShapeError, BadShapeError),
        ("Model_PredictError", DeviceError, DeviceError),
    ],
)
def test_status_gives_the_type(
    status: str, running: type[NPUError], opening: type[NPUError]
) -> None:
    """The message says what was done; the line about the manual is left out."""
    for begin, kind in ((False, running), (True, opening)):
        with pytest.raises(NPUError) as caught, typed("A step", opening=begin):
            raise QbRuntimeError(status)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(f"A step: {status} occurred.")
        assert "manual" not in str(caught.value)
        assert isinstance(caught.value.__cause__, QbRuntimeError)


def test_other_exceptions() -> None:
    """The binding's own checks, Python's memory, an empty text, and what is typed already."""
    for raised, kind in (
        (ValueError("Input shape is invalid."), BadShapeError),
        (MemoryError(), OutOfMemoryError),
        (RuntimeError(""), DeviceError),
        (DeviceTimeoutError("slow"), DeviceTimeoutError),
    ):
        with pytest.raises(kind), typed("A step"):
            raise raised
    with pytest.raises(KeyError), typed("A step"):
        raise KeyError("a mistake of ours stays one")
