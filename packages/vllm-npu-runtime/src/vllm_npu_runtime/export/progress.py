"""How far a compilation has come."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told as the work goes on."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins, and the one before has ended.

        Args:
            name: for people, as in "weights".
            total: of what `advance` counts, bytes where there is more than one; 1 for a stage
                that is over at once or not at all.
        """

    def advance(self, done: int) -> None:
        """So much more of the stage is done."""


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int) -> None:
        """See `Progress.stage`."""

    def advance(self, done: int) -> None:
        """See `Progress.advance`."""
