"""The pytest plugin that brings the kit's options.

It is an entry point, as pytest reads the conftest of a ``--pyargs`` package only after it has
parsed the command line. It is loaded by every pytest run, so it imports nothing heavy.
"""

import pytest


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
