"""The pytest plugin that brings the kit's options.

It is an entry point, as pytest reads the conftest of a ``--pyargs`` package only after it has
parsed the command line. Every pytest run loads it, so it imports nothing heavy until a device
is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vllm_npu_runtime.device import Device

DEVICE: pytest.StashKey[Device] = pytest.StashKey()
"""Where the device under test is kept in pytest's configuration."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `vllm_npu_runtime.conformance`."""
    group = parser.getgroup("vllm-npu", "vllm-npu driver conformance")
    group.addoption(
        "--npu-device",
        metavar="DRIVER[:DEVICE]",
        help="device that the conformance kit checks, as in 'reference' or 'sim:small'",
    )
    group.addoption(
        "--npu-gil",
        action="store_true",
        help="also measure whether a run releases the GIL; wants a quiet machine",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the device, so that a wrong name ends the run before it begins."""
    spec = config.getoption("--npu-device")
    if spec is None:
        return
    from vllm_npu_runtime.device import find
    from vllm_npu_runtime.errors import NPUError

    try:
        config.stash[DEVICE] = find(spec)
    except NPUError as error:
        raise pytest.UsageError(f"--npu-device={spec}: {error}") from error
