"""Pages of KV are copied exactly, whichever lie next to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vllm_npu_runtime.kv_copies import PageCopies, pages_of


def numbered(rows: int, length: int, gap: int = 0) -> torch.Tensor:
    """Bytes that tell where they lie, in rows that may lie apart."""
    whole = torch.arange(rows * (length + gap)).remainder(251).sub(125).to(torch.int8)
    return whole.view(rows, length + gap)[:, :length]


def copy(source: torch.Tensor, sources: Any, target: torch.Tensor, targets: Any) -> None:
    copies = PageCopies()
    copies.add([source], sources, [target], targets)
    copies.make()


@st.composite
def transfers(draw: st.DrawFn) -> tuple[int, int, list[int], list[int]]:
    """Pages in a row on the host's side, rows there, and pages on either side."""
    per_row, rows = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    on_host = draw(st.permutations(range(per_row * rows)))
    on_device = draw(st.permutations(range(20)))
    count = draw(st.integers(0, min(len(on_host), len(on_device))))
    return per_row, rows, sorted(on_host[:count]), list(on_device[:count])


@given(transfers())
def test_every_page_arrives_and_nothing_else_changes(
    transfer: tuple[int, int, list[int], list[int]],
) -> None:
    per_row, rows, on_host, on_device = transfer
    device, host = numbered(20, 6), torch.zeros(rows, per_row * 6 + 5, dtype=torch.int8)
    wanted = host.clone()
    for block, place in zip(on_device, on_host, strict=True):
        row, inside = divmod(place, per_row)
        wanted[row, inside * 6 : inside * 6 + 6] = device[block]
    pages = pages_of(host[:, : per_row * 6], 6)
    index = (np.array(on_device, dtype=np.int64), np.array(on_host, dtype=np.int64))
    copy(pages_of(device, 6), index[0], pages, index[1])
    assert torch.equal(host, wanted)


def test_back_and_forth() -> None:
    device = numbered(8, 12)
    before, host = device.clone(), pages_of(torch.zeros(4, 24, dtype=torch.int8), 12)
    blocks, places = np.array([7, 2, 3, 0]), np.array([1, 2, 3, 6])
    copy(pages_of(device, 12), blocks, host, places)
    device[blocks] = 0
    copy(host, places, pages_of(device, 12), blocks)
    assert torch.equal(device, before)


def test_tensors_with_pages_of_different_sizes_at_once() -> None:
    devices = [numbered(8, 12), numbered(8, 20).flip(0)]
    hosts = [torch.zeros(4, 24, dtype=torch.int8), torch.zeros(4, 40, dtype=torch.int8)]
    blocks, places = np.array([7, 2, 3, 0]), np.array([1, 2, 3, 6])
    copies = PageCopies()
    pages = [pages_of(device, device.shape[1]) for device in devices]
    copies.add(pages, blocks, [pages_of(host, host.shape[1] // 2) for host in hosts], places)
    copies.make()
    for device, host in zip(devices, hosts, strict=True):
        assert torch.equal(host.view(8, -1)[places], device[blocks])
        assert not host.view(8, -1)[[0, 4, 5, 7]].any()


def test_of_no_tensors_nothing_is_copied() -> None:
    copies = PageCopies()
    copies.add([], np.array([1]), [], np.array([1]))
    copies.make()


def test_rows_of_no_whole_number_of_pages() -> None:
    with pytest.raises(ValueError, match="A row of 10 bytes holds no whole number of pages of 4"):
        pages_of(numbered(2, 10), 4)
