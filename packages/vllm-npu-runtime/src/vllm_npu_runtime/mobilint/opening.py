"""From a directory of Mobilint's to a session, on one board or several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_npu_runtime.device import AUTO, find
from vllm_npu_runtime.drivers.base import OpensSessions
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.sessions import placement
from vllm_npu_runtime.sessions.groups import SessionGroup, share

if TYPE_CHECKING:
    from vllm_npu_runtime.sessions.base import Session, SessionOptions

DRIVER = "mobilint"


def open_session(directory: Path, device: str | None, options: SessionOptions) -> Session:
    """Open a model of Mobilint's; as `vllm_npu_runtime.sessions.opening.open_session`, which
    leaves directories to this one that `config.is_mobilint` knows.

    Args:
        directory: of the model.
        device: ``mobilint[:<device>]``; None or ``auto``: the first board.
        options: how.

    Raises:
        ConfigurationError: another driver's device, or an option that can't be honoured.
        OutOfMemoryError: a board has too little memory.
    """
    found = find(DRIVER if device in (None, "", AUTO) else str(device))
    if found.driver.name != DRIVER or not isinstance(found.driver, OpensSessions):
        raise ConfigurationError(
            f"The model in {directory} was made by Mobilint's compiler, and runs on its boards "
            f"alone; {found.name} was asked for. Leave the device out, or set it to '{DRIVER}'."
        )
    boards = options.placement.dev_no
    kind, _, _ = found.info.name.rpartition("-")
    problems = placement.problems(found.name, options.placement, found.capabilities.placement)
    if problems:
        raise ConfigurationError.several(problems)
    if len(boards) < 2:
        return found.driver.open_session(directory, found.info.name, options)
    opened: list[Session] = []
    try:
        for board in boards:
            name = f"{kind}-{board}" if kind else str(board)
            one = replace(
                options,
                slots=share(options.slots, len(boards)),
                placement=replace(options.placement, dev_no=(board,)),
            )
            opened.append(found.driver.open_session(directory, name, one))
        return SessionGroup(opened, options.slots)
    except BaseException:
        for session in opened:
            session.close()
        raise
