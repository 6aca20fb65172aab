"""What is read back is the block that was written, or nothing."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_npu_kv_connector.tiers import block_format
from vllm_npu_kv_connector.tiers.block_format import (
    HEADER_BYTES,
    BlockRejectedError,
    Rejection,
    header_of,
    identity_bytes,
    read_from,
    unpack,
    write_to,
)

WHOSE = bytes(range(32))
KEY = b"key of a block"
PAYLOADS = st.binary(min_size=1, max_size=300)
KEYS = st.binary(min_size=1, max_size=block_format.LONGEST_KEY)


def _block(payload: bytes, key: bytes = KEY, whose: bytes = WHOSE) -> bytes:
    return header_of(whose, key, memoryview(payload)) + payload


def _from_file(block: bytes, size: int, key: bytes = KEY, whose: bytes = WHOSE) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(block)
        file.seek(0)
        into = bytearray(size)
        read_from(file.fileno(), whose, key, memoryview(into))
    return bytes(into)


def _from_message(block: bytes, size: int, key: bytes = KEY, whose: bytes = WHOSE) -> bytes:
    into = bytearray(size)
    unpack(block, whose, key, memoryview(into))
    return bytes(into)


UNTIMED = settings(deadline=None)  # The machine may be busy.
WAYS = pytest.mark.parametrize("read", [_from_file, _from_message])


@WAYS
@UNTIMED
@given(payload=PAYLOADS, key=KEYS, whose=st.binary(min_size=32, max_size=32))
def test_what_was_written_is_read(read, payload: bytes, key: bytes, whose: bytes) -> None:
    assert read(_block(payload, key, whose), len(payload), key, whose) == payload


@WAYS
@UNTIMED
@given(payload=PAYLOADS, data=st.data())
def test_any_flipped_bit_is_noticed(read, payload: bytes, data: st.DataObject) -> None:
    block = bytearray(_block(payload))
    bit = data.draw(st.integers(0, 8 * len(block) - 1))
    block[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BlockRejectedError):
        read(bytes(block), len(payload))


@pytest.mark.parametrize("read", [_from_file, _from_message])
def test_every_bit_of_the_header_is_guarded(read) -> None:
    whole = _block(b"payload")
    for bit in range(8 * HEADER_BYTES):
        block = bytearray(whole)
        block[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BlockRejectedError):
            read(bytes(block), 7)


@WAYS
@UNTIMED
@given(payload=PAYLOADS, data=st.data())
def test_a_block_cut_short_anywhere_is_truncated(read, payload: bytes, data: st.DataObject) -> None:
    block = _block(payload)
    left = data.draw(st.integers(0, len(block) - 1))
    with pytest.raises(BlockRejectedError) as error:
        read(block[:left], len(payload))
    assert error.value.reason is Rejection.TRUNCATED


@WAYS
@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (0, Rejection.BAD_MAGIC),
        (8, Rejection.OTHER_VERSION),
        (12, Rejection.OTHER_KEY),
        (14, Rejection.BAD_CHECKSUM),
        (16, Rejection.WRONG_SIZE),
        (24, Rejection.FOREIGN_IDENTITY),
        (56, Rejection.OTHER_KEY),
        (119, Rejection.OTHER_KEY),
        (120, Rejection.BAD_CHECKSUM),
        (HEADER_BYTES, Rejection.BAD_CHECKSUM),
    ],
)
def test_the_reason_says_what_is_wrong(read, offset: int, reason: Rejection) -> None:
    block = bytearray(_block(b"payload"))
    block[offset] ^= 1
    with pytest.raises(BlockRejectedError) as error:
        read(bytes(block), 7)
    assert error.value.reason is reason


@WAYS
@pytest.mark.parametrize("size", [1, 6, 8, 500])
def test_a_block_of_another_size_is_rejected(read, size: int) -> None:
    with pytest.raises(BlockRejectedError) as error:
        read(_block(b"payload"), size)
    assert error.value.reason is Rejection.WRONG_SIZE


@WAYS
@pytest.mark.parametrize("more", [b"x", b"x" * 1000])
def test_a_block_with_something_after_it_is_rejected(read, more: bytes) -> None:
    with pytest.raises(BlockRejectedError) as error:
        read(_block(b"payload") + more, 7)
    assert error.value.reason is Rejection.WRONG_SIZE


@WAYS
def test_another_models_and_another_tokens_blocks_are_rejected(read) -> None:
    with pytest.raises(BlockRejectedError) as error:
        read(_block(b"payload"), 7, whose=bytes(32))
    assert error.value.reason is Rejection.FOREIGN_IDENTITY
    with pytest.raises(BlockRejectedError) as error:
        read(_block(b"payload"), 7, key=KEY + b"\0")
    assert error.value.reason is Rejection.OTHER_KEY


def test_the_version_is_part_of_the_checksum() -> None:
    """So that one of another version can't pass by a change of its version alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_format, "VERSION", 2)
        later = bytearray(_block(b"payload"))
    with pytest.raises(BlockRejectedError) as error:
        _from_file(bytes(later), 7)
    assert error.value.reason is Rejection.OTHER_VERSION
    later[8] = 1
    with pytest.raises(BlockRejectedError) as error:
        _from_file(bytes(later), 7)
    assert error.value.reason is Rejection.BAD_CHECKSUM


def test_a_message_that_is_rejected_changes_nothing() -> None:
    into = bytearray(b"as it was")
    with pytest.raises(BlockRejectedError):
        unpack(_block(b"123456789")[:-1] + b"0", WHOSE, KEY, memoryview(into))
    assert into == b"as it was"


def test_reads_and_writes_in_pieces_go_on_where_they_stopped(monkeypatch) -> None:
    """The system may stop anywhere, as it does within blocks of more than 2 GiB."""
    writev, readv = os.writev, os.readv

    def first_bytes(pieces, most: int = 5):
        return [next(piece for piece in pieces if len(piece))[:most]]

    monkeypatch.setattr(os, "writev", lambda file, pieces: writev(file, first_bytes(pieces)))
    monkeypatch.setattr(os, "readv", lambda file, pieces: readv(file, first_bytes(pieces)))
    payload, into = bytes(range(100)), bytearray(100)
    with tempfile.TemporaryFile() as file:
        assert write_to(file.fileno(), WHOSE, KEY, memoryview(payload)) == HEADER_BYTES + 100
        file.seek(0)
        read_from(file.fileno(), WHOSE, KEY, memoryview(into))
    assert into == payload


@pytest.mark.parametrize("identity", ["", "ab", "ab" * 31, "zz" * 32])
def test_an_identity_has_64_hexadecimal_digits(identity: str) -> None:
    with pytest.raises(ValueError):
        identity_bytes(identity)


@pytest.mark.parametrize("key", [b"", b"x" * 65])
def test_a_key_fits_the_header(key: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        header_of(WHOSE, key, memoryview(b""))
