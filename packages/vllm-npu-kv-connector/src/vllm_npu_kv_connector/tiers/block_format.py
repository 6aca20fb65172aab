"""What a stored block looks like: a header of fixed size, then the block's bytes as they are.

The header says whose block it is, so that bytes which lie in the wrong place, come from another
model or were changed are never taken for KV. All numbers are little-endian:

====== ===== ==========================================================================
offset bytes field
====== ===== ==========================================================================
0      8     magic, ``NPUKVBLK``
8      4     version of this format
12     2     length of the key
14     2     zero
16     8     length of the payload
24     32    identity: digest of all that the bytes depend on but tokens
56     64    key, filled up with zeros: digest of the tokens and the group of layers
120    16    XXH3 (128 bits) of the fields above and the payload
136    3960  zeros, so that the payload starts at a page, as direct I/O of files needs it
====== ===== ==========================================================================
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import StrEnum

import xxhash

MAGIC = b"NPUKVBLK"
VERSION = 1
LONGEST_KEY = 64
IDENTITY_BYTES = 32

_FIELDS = struct.Struct(f"<8sIHHQ{IDENTITY_BYTES}s{LONGEST_KEY}s")
_CHECKSUM_BYTES = 16
HEADER_BYTES = 4096
_PADDING = bytes(HEADER_BYTES - _FIELDS.size - _CHECKSUM_BYTES)


class Rejection(StrEnum):
    """Why what was found can't be used as a block; also a label of metrics."""

    TRUNCATED = "truncated"
    BAD_MAGIC = "bad_magic"
    OTHER_VERSION = "other_version"
    FOREIGN_IDENTITY = "foreign_identity"
    OTHER_KEY = "other_key"
    WRONG_SIZE = "wrong_size"
    BAD_CHECKSUM = "bad_checksum"


class BlockRejectedError(Exception):
    """What was found is not the block that was asked for.

    Attributes:
        reason: the first thing that is wrong.
    """

    def __init__(self, reason: Rejection) -> None:
        super().__init__(reason.value)
        self.reason = reason


def identity_bytes(identity: str) -> bytes:
    """An identity as it stands in headers.

    Args:
        identity: 64 hexadecimal digits.

    Raises:
        ValueError: it is anything else.
    """
    digest = bytes.fromhex(identity)
    if len(digest) != IDENTITY_BYTES:
        raise ValueError(f"an identity has {2 * IDENTITY_BYTES} hexadecimal digits: '{identity}'")
    return digest


def header_of(identity: bytes, key: bytes, payload: memoryview) -> bytes:
    """The header that goes before a block's bytes.

    Args:
        identity: 32 bytes, as of `identity_bytes`.
        key: 1 to 64 bytes.
        payload: the block's bytes, contiguous, of format ``B``.

    Raises:
        ValueError: the key is empty or too long.
    """
    if not 0 < len(key) <= LONGEST_KEY:
        raise ValueError(f"a key has 1 to {LONGEST_KEY} bytes, not {len(key)}")
    fields = _FIELDS.pack(MAGIC, VERSION, len(key), 0, payload.nbytes, identity, key)
    return fields + _checksum(fields, payload) + _PADDING


def check(
    header: bytes | memoryview, identity: bytes, key: bytes, payload: memoryview, found: int
) -> None:
    """Make sure that a header and a payload are the block that was asked for.

    Args:
        header: the first `HEADER_BYTES` of what was found, or all of it if that is less.
        identity: whose block it has to be.
        key: which block it has to be.
        payload: what followed the header, in a buffer of the size that a block must have.
        found: bytes found in all.

    Raises:
        BlockRejectedError: they aren't.
    """
    if found < HEADER_BYTES:
        raise BlockRejectedError(Rejection.TRUNCATED)
    fields = bytes(header[: _FIELDS.size])
    magic, version, key_length, _, length, whose, padded_key = _FIELDS.unpack(fields)
    if magic != MAGIC:
        raise BlockRejectedError(Rejection.BAD_MAGIC)
    if version != VERSION:
        raise BlockRejectedError(Rejection.OTHER_VERSION)
    if whose != identity:
        raise BlockRejectedError(Rejection.FOREIGN_IDENTITY)
    if key_length != len(key) or padded_key != key.ljust(LONGEST_KEY, b"\0"):
        raise BlockRejectedError(Rejection.OTHER_KEY)
    if length != payload.nbytes:
        raise BlockRejectedError(Rejection.WRONG_SIZE)
    if found != HEADER_BYTES + length:
        short = found < HEADER_BYTES + length
        raise BlockRejectedError(Rejection.TRUNCATED if short else Rejection.WRONG_SIZE)
    if header[_FIELDS.size : HEADER_BYTES] != _checksum(fields, payload) + _PADDING:
        raise BlockRejectedError(Rejection.BAD_CHECKSUM)


def write_to(descriptor: int, identity: bytes, key: bytes, payload: memoryview) -> int:
    """Write a block to a file, from where it lies; bytes written.

    With direct I/O, if the payload starts at a page and is of whole pages.

    Raises:
        OSError: it can't be written whole.
    """
    header = mmap.mmap(-1, HEADER_BYTES)  # which starts at a page
    header[:] = header_of(identity, key, payload)
    pieces = [memoryview(header), payload]
    total = left = HEADER_BYTES + payload.nbytes
    while left:
        written = os.writev(descriptor, pieces)
        left -= written
        pieces = _after(pieces, written)
    return total


def read_from(descriptor: int, identity: bytes, key: bytes, into: memoryview) -> None:
    """Read a block from a file to where it shall lie; with direct I/O as of `write_to`.

    Args:
        descriptor: the file, at its start.
        identity: whose block it has to be.
        key: which block it has to be.
        into: as many bytes as a block has, of format ``B``. After an error it holds anything.

    Raises:
        BlockRejectedError: the file isn't that block.
        OSError: it can't be read.
    """
    header = memoryview(mmap.mmap(-1, HEADER_BYTES))
    pieces, found = [header, into], 0
    size = os.fstat(descriptor).st_size
    # No read at the end of a file that was cut within a page: with direct I/O that is an error.
    while pieces and found < size:
        count = os.readv(descriptor, pieces)
        if not count:
            break
        found += count
        pieces = _after(pieces, count)
    check(header, identity, key, into, found if pieces else max(found, size))


def unpack(block: bytes, identity: bytes, key: bytes, into: memoryview) -> None:
    """Take a block's bytes out of a message, once it is known to be that block.

    Args:
        block: header and payload.
        identity: whose block it has to be.
        key: which block it has to be.
        into: as many bytes as a block has, of format ``B``; untouched after an error.

    Raises:
        BlockRejectedError: it isn't.
    """
    whole = memoryview(block)
    payload = whole[HEADER_BYTES:]
    # One of another size is never looked at, so any buffer of the right size stands for it.
    judged = payload if payload.nbytes == into.nbytes else into
    check(whole, identity, key, judged, len(block))
    into[:] = payload


def _checksum(fields: bytes, payload: memoryview) -> bytes:
    state = xxhash.xxh3_128(fields)
    state.update(payload)
    return state.digest()


def _after(pieces: list[memoryview], count: int) -> list[memoryview]:
    rest = []
    for piece in pieces:
        if count < piece.nbytes:
            rest.append(piece[count:])
        count = max(0, count - piece.nbytes)
    return rest
