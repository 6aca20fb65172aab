"""Questions to an engine's own process: to its scheduler, its connector, its memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def ask_inside(llm: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of the engine's core, and of arguments, returns there."""
    (answer,) = llm.collective_rpc(_call, args=(function, *arguments))
    return answer


def _call(_worker: object, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(_core(), *arguments)


def _core() -> Any:
    """The engine's core, in whose loop this runs."""
    from vllm.v1.engine.core import EngineCore

    frame = sys._getframe()
    while not isinstance(found := frame.f_locals.get("self"), EngineCore):
        assert frame.f_back is not None, "this isn't an engine's process"
        frame = frame.f_back
    return found
