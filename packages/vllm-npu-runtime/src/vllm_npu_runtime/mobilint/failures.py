"""The vendor's failures as our typed errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vllm_npu_runtime.errors import (
    BadShapeError,
    ConfigurationError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    NPUError,
    OutOfMemoryError,
)

# QbRuntimeError is one class for everything; what went wrong is a status name in its text. An
# `Acc_` is about the board, a `Driver_` about the kernel's driver, a `Model_` about one model.
_MEMORY = (
    "BadAlloc",
    "Model_FailedToAllocMemory",
    "Driver_FailedToAllocateHostMemory",
    "Driver_FailedToAllocateModelMemory",
    "Failed to allocate",
)
_TIMEOUT = ("Acc_NPUTimeout", "Driver_WaitDoneTimeout", "Model_TaskQueueTimeout")
_LOST = (
    "Acc_DeviceNotFound",
    "Acc_NoSuchModel",
    "Acc_TaskQueueNotFound",
    "Driver_NotInitialized",
    "Model_NotAlive",
    "Model_NotLaunched",
    "Model_TaskQueueClosed",
)
_SHAPE = (
    "Model_CacheOverflow",
    "Model_DtypeMismatched",
    "Model_InvalidBatchParam",
    "Model_ShapeMismatched",
)
_TABLE: tuple[tuple[type[DeviceError], tuple[str, ...]], ...] = (
    (OutOfMemoryError, _MEMORY),
    (DeviceTimeoutError, _TIMEOUT),
    (DeviceLostError, _LOST),
    (BadShapeError, _SHAPE),
)

# What the user can mend, when a model is opened.
_CONFIGURATION = (
    "Acc_AmbiguousDevice",
    "Acc_CoreAlreadyInUse",
    "Acc_DeviceNotFound",
    "Acc_UnknownDevice",
    "Driver_FailedToClaimCores",
    "Model_BrokenMXQ",
    "Model_FailedToLoadMXQ",
    "Model_IsNotSupportedHardware",
    "Model_MXQAndModelConfigNotMatch",
    "Model_NoGlobalCoreWithGlobalMultiMode",
    "Model_NoTargetCores",
)


@contextmanager
def typed(doing: str, opening: bool = False) -> Iterator[None]:
    """Raise what the vendor's runtime raises in a block as one of our errors.

    Args:
        doing: for the message, as in "A step on mobilint:0".
        opening: a model is being opened, so that a file or a core that doesn't fit is the
            user's to mend.

    Raises:
        OutOfMemoryError, DeviceTimeoutError, DeviceLostError, BadShapeError, DeviceError: as
            they say.
        ConfigurationError: while opening.
    """
    try:
        yield
    except NPUError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"{doing}: out of memory.") from error
    except ValueError as error:
        # Raised by the binding's own checks of shapes and dtypes.
        raise BadShapeError(f"{doing}: {error}") from error
    except RuntimeError as error:
        # The lines after the first point to the vendor's manual.
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        kind = _kind(text)
        if opening and kind is not OutOfMemoryError and any(s in text for s in _CONFIGURATION):
            raise ConfigurationError(
                f"{doing}: {text}. The model file, the board, core_mode, target_cores and "
                "target_clusters must go together, and the cores must be free."
            ) from error
        raise kind(f"{doing}: {text}.") from error


def _kind(text: str) -> type[DeviceError]:
    for kind, signs in _TABLE:
        if any(sign in text for sign in signs):
            return kind
    return DeviceError
