"""Blocks as files in a directory, which outlive the engine and may be shared by several."""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from vllm.v1.kv_offload.tiering.fs.io import O_DIRECT, probe_o_direct

from vllm_npu_kv_connector.tiers import block_format
from vllm_npu_kv_connector.tiers.block_format import HEADER_BYTES, BlockRejectedError
from vllm_npu_kv_connector.tiers.breaker import CircuitBreaker
from vllm_npu_kv_connector.tiers.directory_space import DirectorySpace, on_disk
from vllm_npu_kv_connector.tiers.limited_log import LimitedLog
from vllm_npu_kv_connector.tiers.private_directory import claim
from vllm_npu_kv_connector.tiers.store import (
    BlockCorruptError,
    BlockMissingError,
    Event,
    Outage,
    StoreUnavailableError,
    Tally,
)
from vllm_npu_runtime.errors import ConfigurationError

_logger = logging.getLogger("vllm.npu")

_OUTAGES = {
    errno.ENOSPC: Outage.FULL,
    errno.EDQUOT: Outage.FULL,
    errno.EROFS: Outage.READ_ONLY,
    errno.EACCES: Outage.READ_ONLY,
    errno.EPERM: Outage.READ_ONLY,
}
# A pipe or device in a block's place must not make a reader wait.
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class DirectoryStore:
    """A file a block: ``<root>/v<format>/<identity>/<2 digits>/<key>.kv``.

    The limit holds for all that lies under the root: every identity's blocks, of every engine.
    Blocks that weren't used for longest go first; a file's time of change is its last use.
    Files are written under another name and renamed. They aren't flushed to the disk, as their
    checksum tells one that a loss of power cut short. Where the file system can, reads and writes
    go around its page cache: what is worth memory is in the host tier, and filling pages takes
    the cores more time than all else.
    """

    at_hand = True

    def __init__(
        self,
        root_dir: str | os.PathLike[str],
        identity: str,
        *,
        block_bytes: int,
        max_bytes: int,
        lock_timeout_s: float = 2.0,
    ) -> None:
        """Open a directory, or make it.

        Args:
            root_dir: the directory, of the user's own; engines may share it.
            identity: 64 hexadecimal digits: what blocks depend on besides tokens.
            block_bytes: of every block.
            max_bytes: limit for all files under `root_dir`. If engines that share it name
                different ones, the smallest holds.
            lock_timeout_s: how long a write waits for other engines before it is given up.

        Raises:
            ConfigurationError: the directory can't be used, or is too small for one block.
        """
        self.block_bytes = block_bytes
        self.tally = Tally()
        self._root = Path(root_dir).absolute()
        self._identity = block_format.identity_bytes(identity)
        self._file_bytes = HEADER_BYTES + block_bytes
        if max_bytes < on_disk(self._file_bytes):
            raise ConfigurationError(
                f"max_bytes={max_bytes}: less than one block, which takes "
                f"{on_disk(self._file_bytes)} bytes on disk. Allow at least that, and better a "
                "thousand times as much, or leave the tier out."
            )
        claim(self._root)
        self._direct = block_bytes % mmap.PAGESIZE == 0 and probe_o_direct(str(self._root))
        self._blocks = f"{self._root}/v{block_format.VERSION}/{identity}"
        self._space = DirectorySpace(self._root, max_bytes, self.tally, lock_timeout_s)
        self._log = LimitedLog(_logger)
        self._writes = CircuitBreaker(f"Writing to KV tier at '{self._root}'", _logger)

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """As of `BlockStore`."""
        return [os.path.exists(self._path(key)) for key in keys]

    def read(self, key: bytes, into: memoryview) -> None:
        """As of `BlockStore`."""
        path = self._path(key)
        try:
            with _outages(), _opened(path) as descriptor:
                self._go_direct(descriptor, into)
                block_format.read_from(descriptor, self._identity, key, into)
                with suppress(OSError):  # A block that may not be touched is as good.
                    os.utime(descriptor)
        except BlockRejectedError as error:
            self.tally.add(Event.CORRUPT, error.reason)
            self._log.warning(
                error.reason, "KV block '%s' is removed: %s. It is computed anew.", path, error
            )
            with suppress(StoreUnavailableError):
                self.remove(key)
            raise BlockCorruptError(error.reason) from None
        except StoreUnavailableError as error:
            self.tally.add(Event.UNAVAILABLE, error.outage)
            self._log.warning("read", "KV block '%s' can't be read: %s.", path, error)
            raise

    def write(self, key: bytes, payload: memoryview) -> int:
        """As of `BlockStore`."""
        path = self._path(key)
        if os.path.exists(path):
            return 0
        try:
            with (
                self._writes.call(),
                _outages(),
                self._space.writing(path, self._file_bytes) as descriptor,
            ):
                self._go_direct(descriptor, payload)
                return block_format.write_to(descriptor, self._identity, key, payload)
        except StoreUnavailableError as error:
            self.tally.add(Event.UNAVAILABLE, error.outage)
            raise

    def remove(self, key: bytes) -> None:
        """As of `BlockStore`."""
        path = self._path(key)
        try:
            with _outages(), suppress(FileNotFoundError):
                size = os.lstat(path).st_size
                os.unlink(path)
                self._space.forget(size)
        except StoreUnavailableError as error:
            self.tally.add(Event.UNAVAILABLE, error.outage)
            self._log.warning("remove", "KV block '%s' can't be removed: %s.", path, error)
            raise

    def touch(self, keys: Sequence[bytes]) -> None:
        """As of `BlockStore`."""
        for key in keys:
            with suppress(OSError):
                os.utime(self._path(key))

    def kept_bytes(self) -> int | None:
        """As of `BlockStore`."""
        return self._space.used_bytes()

    def close(self) -> None:
        """As of `BlockStore`."""

    def _go_direct(self, descriptor: int, memory: memoryview) -> None:
        """Leave the page cache out, where memory starts at a page."""
        address, _ = np.frombuffer(memory, np.uint8).__array_interface__["data"]
        if self._direct and address % mmap.PAGESIZE == 0:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | O_DIRECT)

    def _path(self, key: bytes) -> str:  # not a Path, of which a lookup would make thousands
        name = key.hex()
        return f"{self._blocks}/{name[:2]}/{name}.kv"


@contextmanager
def _outages() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreUnavailableError(_OUTAGES.get(error.errno or 0, Outage.FAILED), why) from error


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(path, _READING)
    except FileNotFoundError:
        raise BlockMissingError(f"there is no block '{path}'") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
