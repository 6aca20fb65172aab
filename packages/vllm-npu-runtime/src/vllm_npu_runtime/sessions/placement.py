"""Whether a device can place a session where a user wants it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

from vllm_npu_runtime.sessions.base import Placement


def problems(name: str, placement: Placement, honoured: Collection[str]) -> list[str]:
    """What of a placement can't be honoured, one sentence each.

    Args:
        name: of the device.
        placement: that was asked for.
        honoured: fields of `Placement` that the device's sessions heed. Board 0 is every
            device's.
    """
    found = []
    for each in fields(Placement):
        value = getattr(placement, each.name)
        if not value or each.name in honoured or (each.name, value) == ("dev_no", (0,)):
            continue
        allowed = "only board 0" if each.name == "dev_no" else "none"
        shown = list(value) if isinstance(value, tuple) else value
        found.append(f"{each.name} is {shown!r}; {name} takes {allowed}. Leave it out.")
    boards = placement.dev_no
    if len(set(boards)) < len(boards) or any(number < 0 for number in boards):
        found.append(f"dev_no is {list(boards)}: name each board once, from 0.")
    return found
