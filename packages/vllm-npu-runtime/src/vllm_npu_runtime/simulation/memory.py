"""The memory of a paper NPU: counts bytes, holds nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock

import torch

from vllm_npu_runtime.errors import OutOfMemoryError


class Memory:
    """Bytes that are taken: plain ones, and storages, which several executables may share.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._plain = 0
        self._users: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._lock = Lock()

    @property
    def free(self) -> int:
        """Bytes that are left."""
        return max(0, self.total - self._plain - sum(self._sizes.values()))

    def take(self, what: str, tensors: Sequence[torch.Tensor], plain: int = 0) -> None:
        """Take `plain` bytes and the tensors' storages, or nothing.

        A storage costs its bytes once, however many tensors and executables use it. The caller
        keeps the tensors alive until it gives them back.

        Args:
            what: names the owner in the error.

        Raises:
            OutOfMemoryError: it doesn't fit.
        """
        storages = [tensor.untyped_storage() for tensor in tensors]
        with self._lock:
            new = {each.data_ptr(): each.nbytes() for each in storages}
            wanted = plain + sum(size for key, size in new.items() if key not in self._users)
            if wanted > self.free:
                raise OutOfMemoryError(
                    f"{what} wants {wanted} bytes ({wanted / 2**20:.1f} MiB) of device memory; "
                    f"{self.free} ({self.free / 2**20:.1f} MiB) of {self.total} are free."
                )
            self._plain += plain
            self._sizes.update(new)
            self._users.update(each.data_ptr() for each in storages)

    def give_back(self, tensors: Sequence[torch.Tensor], plain: int = 0) -> None:
        """Undo a `take`."""
        with self._lock:
            self._plain -= plain
            for tensor in tensors:
                key = tensor.untyped_storage().data_ptr()
                self._users[key] -= 1
                if not self._users[key]:
                    del self._users[key], self._sizes[key]


class Loan:
    """What one executable has taken. Keeps its tensors alive until it is closed.

    Args:
        memory: where from.
        what: names the owner in an error.
    """

    def __init__(self, memory: Memory, what: str) -> None:
        self._memory = memory
        self._what = what
        self._plain = 0
        self._tensors: dict[str, torch.Tensor] = {}

    def take(self, plain: int) -> None:
        """Take bytes beside the tensors.

        Raises:
            OutOfMemoryError: they don't fit.
        """
        self._memory.take(self._what, (), plain)
        self._plain += plain

    def extend(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take tensors in, in place of those that had their names.

        Raises:
            OutOfMemoryError: the new ones don't fit beside the old ones.
        """
        self._memory.take(self._what, list(tensors.values()))
        replaced = [self._tensors[name] for name in tensors if name in self._tensors]
        self._memory.give_back(replaced)
        self._tensors.update(tensors)

    def close(self) -> None:
        """Give everything back."""
        self._memory.give_back(list(self._tensors.values()), self._plain)
        self._tensors.clear()
        self._plain = 0
