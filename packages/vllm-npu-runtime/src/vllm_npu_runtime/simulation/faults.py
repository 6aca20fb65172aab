"""Faults on demand.

Grammar::

    faults = fault {"," fault}
    fault  = ("out_of_memory" | "stall" | "device_lost") "@" call [":" n]
    call   = "compile" | "run" | "open" | "step" | "row"

``out_of_memory@run:5`` makes the fifth run on the device fail; ``stall@compile``, without a
number, every compilation. The last three calls are those of sessions: opening one, a step, and
a row of a step, which fails without the others. Calls are counted per device, over all its
executables and sessions, from 1, from the moment the driver was made or reset. Spaces around a
comma don't matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vllm_npu_runtime.errors import ConfigurationError


class Effect(StrEnum):
    """What goes wrong."""

    OUT_OF_MEMORY = "out_of_memory"
    STALL = "stall"
    DEVICE_LOST = "device_lost"


class Call(StrEnum):
    """Which call fails."""

    COMPILE = "compile"
    RUN = "run"
    OPEN = "open"
    STEP = "step"
    ROW = "row"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        effect: what happens.
        call: to which call.
        number: to the n-th such call; None: to every one.
    """

    effect: Effect
    call: Call
    number: int | None

    def strikes(self, call: Call, number: int) -> bool:
        """Whether the n-th call of that kind fails."""
        return self.call is call and self.number in (None, number)


_FAULT = re.compile(
    rf"(?P<effect>{'|'.join(Effect)})@(?P<call>{'|'.join(Call)})(?::(?P<number>[1-9][0-9]*))?"
)


def parse(text: object) -> tuple[Fault, ...]:
    """Faults from text.

    Raises:
        ConfigurationError: it doesn't follow the grammar; says which part.
    """
    if not isinstance(text, str):
        raise ConfigurationError(f"Option 'fail' of driver 'sim' is {text!r}: give a string.")
    faults = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = _FAULT.fullmatch(part)
        if match is None:
            raise ConfigurationError(
                f"Option 'fail' of driver 'sim': '{part}' is not a fault. Write "
                f"<{'|'.join(Effect)}>@<{'|'.join(Call)}>[:<number>], as in 'stall@run:3'."
            )
        number = int(match["number"]) if match["number"] else None
        faults.append(Fault(Effect(match["effect"]), Call(match["call"]), number))
    return tuple(faults)
