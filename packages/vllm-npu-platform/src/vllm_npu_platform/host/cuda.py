"""Stand-ins for the CUDA names that vLLM's V1 runner touches without asking for a GPU.

`vllm/v1/worker/gpu_model_runner.py` and engine-core shutdown create events and streams, and
call `torch.accelerator`, on every platform. With tensors on the host, work is done when a call
returns: an event has always happened, and a stream has nothing to wait for. Only names that
can't work anyway are replaced, and only where torch has no CUDA.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch


class HostEvent:
    """An event on the host, which has happened as soon as it is recorded."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def record(self, *_args: Any) -> None:
        """Nothing is under way."""

    def wait(self, *_args: Any) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """It has happened."""
        return True


class HostStream:
    """The one order in which the host does things."""

    device = torch.device("cpu")

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def wait_stream(self, *_args: Any) -> None:
        """Nothing to wait for."""

    def wait_event(self, *_args: Any) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def record_event(self, event: HostEvent | None = None) -> HostEvent:
        """An event that has happened."""
        return event or HostEvent()


_STREAM = HostStream()


def _nothing(*_args: Any, **_kwargs: Any) -> None: ...


def _no_cache(*_args: Any, **_kwargs: Any) -> None:
    # Not `_nothing` again: Dynamo tells these functions apart by identity.
    ...


def stand_in_for_cuda() -> None:
    """Put the stand-ins in place, unless torch has a CUDA device. May be called again."""
    if torch.cuda.is_available():
        return
    torch.Event = HostEvent  # type: ignore[misc, assignment]
    torch.cuda.Event = HostEvent  # type: ignore[misc, assignment]
    torch.cuda.Stream = HostStream  # type: ignore[misc, assignment]
    torch.cuda.current_stream = lambda *_args: _STREAM  # type: ignore[assignment]
    torch.cuda.stream = lambda *_args: nullcontext()  # type: ignore[assignment]
    torch.accelerator.synchronize = _nothing
    torch.accelerator.empty_cache = _no_cache
    torch.accelerator.empty_host_cache = _no_cache
