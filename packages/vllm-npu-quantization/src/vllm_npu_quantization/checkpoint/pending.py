"""A check that waits until the checkpoint's files are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any, str, "str | None"], bool]
"""From config, model and revision to whether the files could be looked at."""


class Pending:
    """Looks at a checkpoint once: when the engine is configured, or else when it was loaded.

    A model on the Hugging Face Hub may be fetched only when it is loaded. All copies of a config
    share one of these, for vLLM makes a copy for each layer.

    Args:
        check: see `Check`; a function of a module, as configs travel between processes.
        config: what the files are held against.
        model: a directory, or a name on the Hub.
        revision: of the latter.

    Raises:
        ConfigurationError: whatever is wrong with the files, at once.
    """

    def __init__(self, check: Check, config: Any, model: str, revision: str | None) -> None:
        self._check = check
        self._config = config
        self._model = model
        self._revision = revision
        self._done = check(config, model, revision)

    def finish(self) -> None:
        """Look now, if that wasn't possible before. Everything is loaded.

        Raises:
            ConfigurationError: as above.
        """
        if not self._done:
            self._done = True
            self._check(self._config, self._model, self._revision)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pending:
        return self
