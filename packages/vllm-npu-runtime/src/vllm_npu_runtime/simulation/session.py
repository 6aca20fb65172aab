"""An artifact opened on a paper NPU: the reference's values within a datasheet's limits."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vllm_npu_runtime.errors import (
    BadShapeError,
    ConfigurationError,
    DeviceError,
    DeviceLostError,
)
from vllm_npu_runtime.sessions.base import Row, Snapshot, StepOutput
from vllm_npu_runtime.sessions.reference import ReferenceSession
from vllm_npu_runtime.simulation.faults import Call
from vllm_npu_runtime.simulation.memory import Loan
from vllm_npu_runtime.simulation.step import Decoder, estimate

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.sessions.base import SessionCapabilities, SessionOptions
    from vllm_npu_runtime.simulation.cost import Estimate
    from vllm_npu_runtime.simulation.device import PaperDevice


class SimSession:
    """A reference session that takes a paper device's memory, time and faults.

    Args:
        artifact: that is opened.
        device: where.
        options: how.
        realtime: whether a step takes its estimated time.

    Attributes:
        estimate: what the last step costs; None before the first.

    Raises:
        ConfigurationError: a dtype or more slots than the datasheet has.
        OutOfMemoryError: weights and slots don't fit.
    """

    def __init__(
        self, artifact: Artifact, device: PaperDevice, options: SessionOptions, realtime: bool
    ) -> None:
        sheet = device.sheet
        self._name = f"sim:{sheet.name}"
        _check(artifact, device, options)
        self._device, self._timeout, self._realtime = device, options.timeout, realtime
        self._inner = ReferenceSession(artifact, options, self._name)
        self.estimate: Estimate | None = None
        self._decoder = _decoder(artifact, self._inner)
        self._loan = Loan(device.memory, f"A session of '{artifact.manifest.source}'")
        device.take_slot()
        self._unload = weakref.finalize(self, _unload, device, self._loan)
        try:
            self._loan.take(self._inner.memory)
        except Exception:
            self._unload()
            raise

    @property
    def capabilities(self) -> SessionCapabilities:
        """See `Session.capabilities`; those of the reference."""
        return self._inner.capabilities

    @property
    def identity(self) -> str:
        """See `Session.identity`."""
        return self._inner.identity

    @property
    def memory(self) -> int:
        """See `Session.memory`."""
        return self._inner.memory

    @property
    def slot_bytes(self) -> int:
        """See `Session.slot_bytes`."""
        return self._inner.slot_bytes

    def describe(self) -> str:
        """See `Session.describe`."""
        return f"{self._inner.describe()}, on paper"

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Session.embed`."""
        return self._inner.embed(tokens)

    def infer(self, rows: Sequence[Row]) -> StepOutput:
        """See `Session.infer`; a step that stalls, or finds no memory, fails all its rows."""
        begin = time.perf_counter()
        self._check_step(rows)
        try:
            self._device.check_in(Call.STEP, self._timeout)
        except DeviceLostError:
            raise
        except DeviceError as error:
            return self._fail(rows, dict.fromkeys(range(len(rows)), error))
        failing = self._failing(rows)
        output = self._inner.infer(rows)
        self.estimate = estimate(
            self._decoder, [(row.past, row.count) for row in rows], self._device.sheet
        )
        if self._realtime:
            time.sleep(max(0.0, self.estimate.seconds - (time.perf_counter() - begin)))
        return self._fail(rows, {**output.failed, **failing}, output.values)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Session.logits`."""
        self._device.check_alive()
        return self._inner.logits(hidden)

    def snapshot(self, slot: int, tokens: int) -> Snapshot:
        """See `Session.snapshot`."""
        self._device.check_alive()
        return self._inner.snapshot(slot, tokens)

    def restore(self, slot: int, snapshot: Snapshot, tokens: int) -> None:
        """See `Session.restore`."""
        self._device.check_alive()
        self._inner.restore(slot, snapshot, tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """See `Session.copy`."""
        self._device.check_alive()
        self._inner.copy(source, target, tokens)

    def forget(self, slot: int) -> None:
        """See `Session.forget`."""
        self._inner.forget(slot)

    def close(self) -> None:
        """See `Session.close`; gives the memory back, even of a lost device."""
        self._inner.close()
        self._unload()

    def _check_step(self, rows: Sequence[Row]) -> None:
        sheet = self._device.sheet
        tokens = sum(row.count for row in rows)
        for what, count, most in (
            ("rows", len(rows), sheet.max_batch_size),
            ("tokens", tokens, sheet.max_tokens),
        ):
            if most is not None and count > most:
                raise BadShapeError(f"{self._name} takes {most} {what} in one step, not {count}.")

    def _failing(self, rows: Sequence[Row]) -> dict[int, DeviceError]:
        """Rows that a fault strikes."""
        failing: dict[int, DeviceError] = {}
        for index in range(len(rows)):
            try:
                self._device.check_in(Call.ROW, self._timeout)
            except DeviceLostError:
                raise
            except DeviceError as error:
                failing[index] = error
        return failing

    def _fail(
        self,
        rows: Sequence[Row],
        failed: dict[int, DeviceError],
        values: torch.Tensor | None = None,
    ) -> StepOutput:
        """The step's output with failed rows' values zero and their slots empty."""
        if values is None:
            width = self.capabilities.hidden_size
            values = torch.zeros(sum(row.count for row in rows), width, dtype=self._decoder.dtype)
        parts = values.split([row.count for row in rows])
        for index in failed:
            parts[index].zero_()
            self._inner.forget(rows[index].slot)
        return StepOutput(values, failed)


def _check(artifact: Artifact, device: PaperDevice, options: SessionOptions) -> None:
    """Refuse what isn't on the datasheet, before the model is loaded."""
    sheet, dtype = device.sheet, artifact.manifest.dtype
    known = [str(each).removeprefix("torch.") for each in sheet.flops]
    problems = []
    if dtype not in known:
        problems.append(
            f"sim:{sheet.name} doesn't compute in {dtype}. Compile the artifact with --dtype "
            f"{' or '.join(known)}."
        )
    if sheet.max_batch_size is not None and options.slots > sheet.max_batch_size:
        problems.append(
            f"{options.slots} slots: sim:{sheet.name} has {sheet.max_batch_size}. Ask for fewer."
        )
    if problems:
        raise ConfigurationError.several(problems)


def _decoder(artifact: Artifact, session: ReferenceSession) -> Decoder:
    model, config = artifact.manifest.model, artifact.config()
    dtype = getattr(torch, artifact.manifest.dtype)
    apart = session.table_bytes
    layers = session.memory - session.capabilities.slots * session.slot_bytes - apart
    heads = int(config.get("num_attention_heads", model.kv_heads))
    return Decoder(
        parameters=layers // dtype.itemsize,
        weight_bytes=layers,
        attention_width=model.layers * heads * model.head_size,
        token_bytes=session.slot_bytes // session.capabilities.max_length,
        hidden_bytes=model.hidden_size * dtype.itemsize,
        dtype=dtype,
    )


def _unload(device: PaperDevice, loan: Loan) -> None:
    loan.close()
    device.free_slot()
