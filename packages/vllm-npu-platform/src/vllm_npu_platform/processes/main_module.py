"""The user's script, which a process that isn't forked runs again unless it is guarded.

`multiprocessing` imports it there for what arguments may refer to. Without a guard, that starts
another engine, which `multiprocessing` forbids.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

_NAME = "__main__"


def is_guarded(source: str) -> bool:
    """Whether a script has an `if __name__ == "__main__":` at its top level."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.If):
            named = {each.id for each in ast.walk(statement.test) if isinstance(each, ast.Name)}
            texts = {e.value for e in ast.walk(statement.test) if isinstance(e, ast.Constant)}
            if "__name__" in named and _NAME in texts:
                return True
    return False


@contextmanager
def hidden_if_unguarded() -> Iterator[None]:
    """Keep an unguarded script out of the processes that are started within the block."""
    main = sys.modules[_NAME]
    if not _is_unguarded(main):
        yield
        return
    sys.modules[_NAME] = ModuleType(_NAME)
    try:
        yield
    finally:
        sys.modules[_NAME] = main


def _is_unguarded(main: ModuleType) -> bool:
    path = getattr(main, "__file__", None)
    if path is None or main.__spec__ is not None:  # `python -m` finds modules meant for import
        return False
    try:
        return not is_guarded(Path(path).read_text())
    except (OSError, SyntaxError, ValueError):
        return False
