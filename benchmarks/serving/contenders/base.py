"""What the driving process asks of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


class Engine(ABC):
    """An engine in this process. Constructing one must import nothing heavy: `start` is timed.

    Attributes:
        packages: distributions whose versions the report names.
        settings: what was chosen for it, as the report shows it.
    """

    packages: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def load(self) -> None:  # noqa: B027
        """Import what it needs; timed apart from `start`."""

    @abstractmethod
    def start(self, checkpoint: Path, room: dict[str, Any]) -> None:
        """Make the engine ready. `room` has `max_model_len`, `max_num_seqs`, `kv_cache_gib`,
        `threads` and `dtype`, of all numbers."""

    @abstractmethod
    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Exactly so many new tokens for each prompt, the likeliest each time."""

    def device_seconds(self) -> float | None:
        """Seconds spent in compiled programs so far, where the engine counts them."""
        return None

    def close(self) -> None:  # noqa: B027
        """End what it started."""

    def versions(self) -> dict[str, str]:
        """Of the packages."""
        found = {}
        for name in self.packages:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                found[name] = "missing"
        return found
