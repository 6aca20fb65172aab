"""Several engines with KV connectors in one process, of which vLLM expects one.

vLLM keeps the worker's connector in a variable of the process. Each engine's is put there before
the engine is asked anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def new() -> Iterator[None]:
    """An engine that starts here makes a connector of its own, if it wants one."""
    _put(None)
    yield


def with_its_own(llm: Any) -> Any:
    """The engine that was just started, or one that brings its connector along."""
    connector = _current()
    return llm if connector is None else _Engine(llm, connector)


class _Engine:
    def __init__(self, llm: Any, connector: Any) -> None:
        self._llm = llm
        self._connector = connector

    def __getattr__(self, name: str) -> Any:
        _put(self._connector)
        return getattr(self._llm, name)


def _current() -> Any:
    from vllm.distributed.kv_transfer import kv_transfer_state

    return kv_transfer_state._KV_CONNECTOR_AGENT


def _put(connector: Any) -> None:
    from vllm.distributed.kv_transfer import kv_transfer_state

    kv_transfer_state._KV_CONNECTOR_AGENT = connector
