"""A safetensors file that is written tensor by tensor.

The library's own writer wants all tensors in memory at once, and chooses where in the file each
lies; here one is in memory at a time, and the graphs need to know the places beforehand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
"""Bytes. Constants at other addresses would be copied when a graph is read."""
_NAMES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint8": "U8",
}


@dataclass(frozen=True)
class Slot:
    """Room for a tensor.

    Attributes:
        name: of the tensor.
        dtype: by torch's name, as "bfloat16".
        shape: of the tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        import torch

        size = int(getattr(torch, self.dtype).itemsize)
        for extent in self.shape:
            size *= extent
        return size


class TensorFile:
    """The file while it is being written; use it in a `with` statement.

    Attributes:
        offsets: of each tensor, in bytes from the beginning of the file.
        size: of the file.
    """

    def __init__(self, path: Path, slots: Sequence[Slot]) -> None:
        """Lay out the file and reserve its bytes on the disk.

        Args:
            path: of a file that doesn't exist.
            slots: its tensors, of different names.

        Raises:
            OSError: it can't be written, or the disk has too little room.
        """
        # Those that keep the next one aligned first: the format allows no gaps.
        order = sorted(slots, key=lambda slot: (slot.nbytes % ALIGNMENT != 0, -_item(slot)))
        self._slots = {slot.name: slot for slot in order}
        self._missing = set(self._slots)
        header = _header(order)
        self.offsets: dict[str, int] = {}
        place = len(header)
        for slot in order:
            self.offsets[slot.name] = place
            place += slot.nbytes
        self.size = place
        self._file = path.open("xb")
        try:
            os.posix_fallocate(self._file.fileno(), 0, self.size)
            self._file.write(header)
        except BaseException:
            self._file.close()
            raise

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write a tensor into its room.

        Raises:
            OSError: it can't be written.
            ValueError: it isn't what there is room for.
        """
        import torch

        slot = self._slots[name]
        if (str(tensor.dtype), tuple(tensor.shape)) != (f"torch.{slot.dtype}", slot.shape):
            raise ValueError(f"{name}: {tensor.dtype} {list(tensor.shape)}, not {slot}")
        self._file.seek(self.offsets[name])
        flat = tensor.detach().contiguous().reshape(-1)
        self._file.write(flat.view(torch.uint8).numpy().data)
        self._missing.discard(name)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"never written: {', '.join(sorted(self._missing))}")


def _item(slot: Slot) -> int:
    import torch

    return int(getattr(torch, slot.dtype).itemsize)


def _header(order: Sequence[Slot]) -> bytes:
    """Length and JSON, padded with spaces so that the first tensor is aligned."""
    entries: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
    place = 0
    for slot in order:
        entries[slot.name] = {
            "dtype": _NAMES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [place, place + slot.nbytes],
        }
        place += slot.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
