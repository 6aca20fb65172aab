"""OpenVINO's only exception becomes one of our types by what it says."""

from __future__ import annotations

import pytest

pytest.importorskip("openvino")

from vllm_npu_runtime.errors import (
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    OutOfMemoryError,
)
from vllm_npu_runtime.openvino.failures import typed


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Exception from a.cpp:1:\nstd::bad_alloc", OutOfMemoryError),
        ("[GPU] CL_OUT_OF_MEMORY: out of memory", OutOfMemoryError),
        ("L0 zeMemAllocDevice result: ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY", OutOfMemoryError),
        ("posix_memalign: Cannot allocate 123 bytes", OutOfMemoryError),
        ("result: ZE_RESULT_ERROR_DEVICE_LOST", DeviceLostError),
        ("Check 'x' failed at y.cpp:3", DeviceError),
        ("", DeviceError),
    ],
)
def test_text_gives_the_type(text: str, kind: type[DeviceError]) -> None:
    """The message begins with what was done, and ends with OpenVINO's last line."""
    with pytest.raises(DeviceError) as caught, typed("Compiling 'p'"):
        raise RuntimeError(text)
    assert type(caught.value) is kind
    assert str(caught.value).startswith("Compiling 'p': ")
    assert str(caught.value).endswith(text.splitlines()[-1] if text else "failed")


def test_memory_error() -> None:
    """Python's own."""
    with pytest.raises(OutOfMemoryError), typed("Running 'p'"):
        raise MemoryError


def test_typed_errors_pass() -> None:
    """They are right already."""
    with pytest.raises(DeviceTimeoutError, match=r"^slow$"), typed("Running 'p'"):
        raise DeviceTimeoutError("slow")
