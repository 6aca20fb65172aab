"""What every session does, whoever's runtime is behind it.

A slot holds the keys and values of one request. A step is a packed list of rows, each some tokens
that go on from what its slot holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from vllm_npu_runtime.errors import DeviceError


class Gives(StrEnum):
    """What a session's steps give for each token."""

    HIDDEN = "hidden"
    """Final hidden states; `Session.logits` makes logits of them."""
    LOGITS = "logits"
    """Logits at once; `Session.logits` gives back what it is given."""


@dataclass(frozen=True)
class Placement:
    """Where on a vendor's boards a session runs; a driver refuses what it can't honour.

    Attributes:
        dev_no: numbers of the boards; each serves a share of the slots.
        core_mode: how cores work together, in the vendor's words.
        target_cores: cores, in the vendor's words, as "0:1".
        target_clusters: clusters of cores, by number.
    """

    dev_no: tuple[int, ...] = ()
    core_mode: str | None = None
    target_cores: tuple[str, ...] = ()
    target_clusters: tuple[int, ...] = ()


@dataclass(frozen=True)
class SessionOptions:
    """How to open a session.

    Attributes:
        slots: requests that may be held at once.
        max_length: tokens that a slot must hold; None: what the artifact was compiled for.
        placement: see there.
        kv_cache_dtype: of keys and values; None: the best that goes with the artifact's dtype.
        timeout: seconds after which a step counts as stalled; None: never.
        driver: options of one driver, by its own names, as for `CompileOptions.driver`.
    """

    slots: int
    max_length: int | None = None
    placement: Placement = Placement()
    kv_cache_dtype: torch.dtype | None = None
    timeout: float | None = None
    driver: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class SessionCapabilities:
    """What a session can do.

    Attributes:
        slots: that it has, numbered from 0.
        max_length: tokens that a slot holds.
        hidden_size: numbers in an embedding.
        vocab_size: logits per token.
        gives: what a step gives.
        max_tokens: most tokens of a row; None: as many as fit.
        batched: rows of a step run together, not one after another.
        crops: a row may go on from fewer tokens than its slot holds; what came after is forgotten.
        snapshots: slots can be copied to the host and back.
        snapshot_step: a copy's first tokens alone are exact at multiples of this; 0: a copy is
            exact only whole.
        every_token: a step gives values for every token; else for the last token of each row
            alone, and NaN for the others, so that there are no logprobs of prompts.
    """

    slots: int
    max_length: int
    hidden_size: int
    vocab_size: int
    gives: Gives = Gives.HIDDEN
    max_tokens: int | None = None
    batched: bool = False
    crops: bool = True
    snapshots: bool = False
    snapshot_step: int = 0
    every_token: bool = True


@dataclass(frozen=True)
class Row:
    """Some tokens of one request: either ids or embeddings.

    Attributes:
        slot: of the request.
        past: tokens before these, which the slot holds; 0 begins a request.
        tokens: ids, int64 `[n]`.
        embeddings: `[n, hidden_size]`.
    """

    slot: int
    past: int
    tokens: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """How many tokens there are."""
        given = self.tokens if self.tokens is not None else self.embeddings
        return 0 if given is None else len(given)


@dataclass(frozen=True)
class StepOutput:
    """What a step gave.

    Attributes:
        values: `[sum of the rows' tokens, width]`, rows in the order given; width is that of
            hidden states or of logits. Valid until the next step.
        failed: rows that failed, by index, each with its error; their values are zeros, and their
            slots hold nothing. The other rows are whole.
    """

    values: torch.Tensor
    failed: Mapping[int, DeviceError] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """A slot's keys and values on the host.

    Attributes:
        tokens: that it holds.
        identity: of the session's artifact and KV layout. A session with another one refuses it.
        parts: tensors whose meaning the session alone knows.
    """

    tokens: int
    identity: str
    parts: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on the host."""
        return sum(part.nbytes for part in self.parts)


@runtime_checkable
class Session(Protocol):
    """An artifact opened on a device.

    One thread at a time may step; `close` may come from any, at any time and more than once.
    """

    @property
    def capabilities(self) -> SessionCapabilities:
        """What it can do."""

    @property
    def identity(self) -> str:
        """Of the artifact and of the KV's layout: what a snapshot must agree with."""

    @property
    def memory(self) -> int:
        """Bytes on the device: weights and KV."""

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot's keys and values when it is full."""

    def describe(self) -> str:
        """Where and how it runs, in a few words for the start-up line."""

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids, int64 `[n]` to `[n, hidden_size]`."""

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """One step; every row is of another slot.

        Raises:
            BadShapeError: no such slot, more tokens than fit, a past that the slot doesn't hold.
            DeviceLostError: the device is gone, and every slot with it.
        """

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of some hidden states, `[n, hidden_size]` to float32 `[n, vocab_size]`."""

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """A copy of a slot's first tokens.

        Raises:
            BadShapeError: the slot holds fewer.
            ConfigurationError: the session has no snapshots.
        """

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """Make a slot hold the first `tokens` of a snapshot, and nothing else.

        Raises:
            BadShapeError: the snapshot holds fewer, or is of another session's kind.
            ConfigurationError: the session has no snapshots.
        """

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Make a slot hold the first `tokens` of another, which keeps them.

        Raises:
            BadShapeError: the source holds fewer.
            ConfigurationError: the session has no snapshots.
        """

    def forget(self, slot: int) -> None:
        """A slot's contents aren't needed any more."""

    def close(self) -> None:
        """Free what it holds. Every later call raises `DeviceLostError`."""
