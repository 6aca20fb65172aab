"""From an artifact's directory to a session on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.artifact.names import CORE_MODE
from vllm_npu_runtime.device import AUTO, find
from vllm_npu_runtime.drivers.base import OpensSessions
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.mobilint.config import is_mobilint
from vllm_npu_runtime.mobilint.opening import open_session as open_mobilint
from vllm_npu_runtime.sessions import placement
from vllm_npu_runtime.sessions.groups import SessionGroup, share

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.manifest import Manifest, PerCoreMode
    from vllm_npu_runtime.device import Device
    from vllm_npu_runtime.sessions.base import Session, SessionOptions


def open_session(directory: Path, device: str | None, options: SessionOptions) -> Session:
    """Open an artifact, or a model from Mobilint's compiler, which has a form of its own.

    Args:
        directory: of the artifact.
        device: ``<driver>[:<device>]``; None or ``auto``: the one that it was compiled for.
        options: how.

    Returns:
        A session; of several boards, if `options.placement.dev_no` lists them.

    Raises:
        ConfigurationError: the artifact is of another device, or an option can't be honoured;
            all problems at once, each with its mending.
        OutOfMemoryError: the device has too little memory.
    """
    if is_mobilint(directory):
        return open_mobilint(directory, device, options)
    artifact = Artifact.open(directory)
    manifest = artifact.manifest
    wanted = manifest.device if device in (None, "", AUTO) else device
    assert wanted is not None
    found = find(wanted)
    driver = found.driver
    if not found.capabilities.stateful or not isinstance(driver, OpensSessions):
        raise ConfigurationError(f"{found.name} opens no artifacts: its driver has no sessions.")
    mode = options.placement.core_mode or artifact.config().get(CORE_MODE)
    boards = options.placement.dev_no
    problems = [
        *_device_problems(directory, manifest, found),
        *placement.problems(found.name, options.placement, found.capabilities.placement),
        *_limit_problems(manifest, options, mode, max(1, len(boards))),
    ]
    if problems:
        raise ConfigurationError.several(problems)
    options = replace(options, max_length=options.max_length or manifest.limits.max_model_len)
    if len(boards) < 2:
        return driver.open_session(directory, found.info.name, options)
    opened: list[Session] = []
    try:
        for board in boards:
            one = replace(
                options,
                slots=share(options.slots, len(boards)),
                placement=replace(options.placement, dev_no=(board,)),
            )
            opened.append(driver.open_session(directory, found.info.name, one))
        return SessionGroup(opened, options.slots)
    except BaseException:
        for session in opened:
            session.close()
        raise


def limit(value: PerCoreMode, mode: str | None) -> int:
    """A limit of an artifact, in a core mode where it differs between them.

    Raises:
        ConfigurationError: it does, and the mode isn't among them.
    """
    if not isinstance(value, Mapping):
        return value
    if mode is None:
        raise ConfigurationError(
            f"The artifact's limits differ by core mode, and none was named: set core_mode to one "
            f"of {', '.join(sorted(value))}."
        )
    if mode not in value:
        raise ConfigurationError.unknown("core mode", mode, value)
    return value[mode]


def _device_problems(directory: Path, manifest: Manifest, found: Device) -> list[str]:
    if found.capabilities.opens_any or manifest.device == found.name:
        return []
    return [
        f"The artifact in {directory} was compiled for {manifest.device}, and {found.name} was "
        f"asked for. Compile it anew with `vllm-npu compile {manifest.source} --device "
        f"{found.name}`, or leave the device out."
    ]


def _limit_problems(
    manifest: Manifest, options: SessionOptions, mode: str | None, boards: int
) -> list[str]:
    found, limits = [], manifest.limits
    try:
        most = limit(limits.max_batch_size, mode) * boards
    except ConfigurationError as error:
        found.append(str(error))
    else:
        if not 0 < options.slots <= most:
            found.append(
                f"{options.slots} slots: the artifact was compiled for 1 to {most} requests at "
                "once. Ask for fewer, or compile it with a larger `--max-batch-size`."
            )
    longest = options.max_length
    if longest is not None and not 0 < longest <= limits.max_model_len:
        found.append(
            f"A length of {longest} tokens: the artifact was compiled for 1 to "
            f"{limits.max_model_len}. Ask for fewer, or compile it with a larger "
            "`--max-model-len`."
        )
    return found
