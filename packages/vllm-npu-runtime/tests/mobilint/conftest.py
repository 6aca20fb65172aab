"""A machine with two boards, and models for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllm_npu_runtime.mobilint import requirement
from vllm_npu_runtime.mobilint.session import MobilintSession

from .fake import Host
from .released import Released

Open = Callable[..., MobilintSession]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """The fake runtime in place of the real one, whether that is installed or not."""
    made = Host()
    monkeypatch.setitem(sys.modules, "qbruntime", made.module())
    monkeypatch.setattr(requirement, "version", lambda name: "1.5.0")
    return made


@pytest.fixture
def released(tmp_path: Path) -> Released:
    """A model as Mobilint releases them, for one request."""
    return Released(tmp_path / "model")


@pytest.fixture
def open_model(host: Host) -> Iterator[Open]:
    """Opens sessions on board 0, and closes them after the test."""
    opened: list[MobilintSession] = []

    def open_model(model: Released, **options: Any) -> MobilintSession:
        session = model.open(**options)
        opened.append(session)
        host.log.clear()  # of the first run
        return session

    yield open_model
    for session in opened:
        session.close()
    assert not host.models
