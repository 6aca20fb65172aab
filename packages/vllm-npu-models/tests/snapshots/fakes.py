"""A session whose keys and values are the token ids themselves, so that any slip is seen."""

from __future__ import annotations

import torch

from vllm_npu_models.snapshots.prefix import Prefix, seed_of
from vllm_npu_models.snapshots.settings import SessionFacts, SnapshotSettings
from vllm_npu_runtime.errors import BadShapeError, OutOfMemoryError
from vllm_npu_runtime.sessions.base import SessionCapabilities, Snapshot

BLOCK = 4


class TokenSession:
    """Slots that hold token ids, eight bytes each."""

    identity = "token-session"

    def __init__(
        self,
        slots: int,
        length: int = 64,
        *,
        crops: bool = True,
        copies: bool = True,
        step: int = 1,
    ) -> None:
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.calls: list[tuple[object, ...]] = []
        self.out_of_memory: set[str] = set()
        self.capabilities = SessionCapabilities(
            slots, length, 1, 1000, crops=crops, snapshots=copies, snapshot_step=step
        )
        self.slot_bytes = 8 * length

    def run(self, slot: int, past: int, tokens: list[int]) -> None:
        """What `infer` does to a slot."""
        held = self.held[slot]
        if past > len(held) or (past < len(held) and past and not self.capabilities.crops):
            raise BadShapeError(f"Slot {slot} holds {len(held)} tokens, not {past}.")
        self.held[slot] = held[:past] + tokens

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        self._call("snapshot", slot, tokens)
        held = self._exactly(self.held[slot], tokens)
        return Snapshot(tokens, self.identity, (torch.tensor(held, dtype=torch.int64),))

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        self._call("restore", slot, tokens)
        self.held[slot] = self._exactly(snapshot.parts[0].tolist(), tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._call("copy", source, target, tokens)
        self.held[target] = self._exactly(self.held[source], tokens)

    def forget(self, slot: int) -> None:
        self._call("forget", slot)
        self.held[slot] = []

    def _exactly(self, held: list[int], tokens: int) -> list[int]:
        step = self.capabilities.snapshot_step
        if tokens > len(held):
            raise BadShapeError(f"There are {len(held)} tokens, not {tokens}.")
        if tokens != len(held) and (not step or tokens % step):
            raise BadShapeError(f"{tokens} tokens of {len(held)} aren't exact.")
        return held[:tokens]

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        if name in self.out_of_memory:
            raise OutOfMemoryError(f"No memory for {name}.")


class Slots:
    """The model's half of the executor: which slots failed."""

    def __init__(self) -> None:
        self.failed: set[int] = set()


def settings(**changes: object) -> SnapshotSettings:
    """Settings for few and small tokens."""
    values: dict[str, object] = {"block_size": BLOCK, "min_hit_tokens": BLOCK, **changes}
    return SnapshotSettings(**values)  # type: ignore[arg-type]


def facts(session: TokenSession) -> SessionFacts:
    """What the worker would tell of it."""
    return SessionFacts.of(session)  # type: ignore[arg-type]


def prefix(*tokens: int, who: object = None) -> Prefix:
    """Of a request."""
    return Prefix(seed_of(who), BLOCK, tokens)
