"""What the scheduler's side has the worker do on the session, in the order given."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Assign:
    """A slot is a request's from now on.

    Attributes:
        slot: that vLLM handed out.
        request: id of the request.
        kept: tokens that the slot holds already and the request goes on from; 0: none.
    """

    slot: int
    request: str
    kept: int = 0


@dataclass(frozen=True)
class CopyOut:
    """Keep a copy of a slot's first tokens on the host."""

    slot: int
    entry: int
    tokens: int


@dataclass(frozen=True)
class CopySlot:
    """Make a slot hold the first tokens of another."""

    source: int
    target: int
    tokens: int


@dataclass(frozen=True)
class LoadHost:
    """Make a slot hold the first tokens of a copy on the host."""

    entry: int
    slot: int
    tokens: int


@dataclass(frozen=True)
class DropHost:
    """A copy on the host isn't needed any more."""

    entry: int


@dataclass(frozen=True)
class Forget:
    """A slot's contents aren't needed any more."""

    slot: int


Operation = Assign | CopyOut | CopySlot | LoadHost | DropHost | Forget


@dataclass
class Spent:
    """How long something took.

    Attributes:
        tokens: that it was done for.
        milliseconds: that it took.
    """

    tokens: int = 0
    milliseconds: float = 0.0

    def add(self, tokens: int, milliseconds: float) -> None:
        """Count one more."""
        self.tokens += tokens
        self.milliseconds += milliseconds


@dataclass
class Report:
    """What the worker found out in a step.

    Attributes:
        stored: entries copied out, and the bytes that each takes.
        lost: entries that are not on the host, though they were to be.
        failed: ids of requests whose slot failed.
        unfilled: ids of requests whose prefix couldn't be loaded.
        prefill: time in which prompts' tokens were computed.
        slot_copies: time of copies between slots.
        loads: time of loads from the host.
    """

    stored: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    unfilled: set[str] = field(default_factory=set)
    prefill: Spent = field(default_factory=Spent)
    slot_copies: Spent = field(default_factory=Spent)
    loads: Spent = field(default_factory=Spent)
