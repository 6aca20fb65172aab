"""Processes of tests, forked from one that has imported everything and computed nothing.

Importing vLLM takes longer than starting an engine. A test process has imported it once its tests
are collected; it then forks a server (`start`), which forks engines from then on, whatever the
tests compute meanwhile. To the platform it is the fork server that a process has which can't be
forked itself (`vllm_npu_platform.processes`).
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import connection, forkserver, get_context, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

# Of pytest-xdist. It waits for orders, and holds nothing that an engine uses.
HARMLESS = ("thread 'python'", "thread 'pytest'")
IMPORTED = (
    "openvino.frontend.pytorch.fx_decoder",
    "torch._dynamo.backends.inductor",
    "torch.distributed.tensor.experimental",
    "torch.export._trace",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.entrypoints.llm",
    "vllm.entrypoints.openai.api_server",
    "vllm.model_executor.layers.quantization.auto_awq",
    "vllm.model_executor.layers.quantization.auto_gptq",
    "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.triton_utils.dispatcher",
    "vllm.v1.core.sched.async_scheduler",
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.pool.flash_maxsim",
    "vllm_npu_kv_connector.registration",
    "vllm_npu_models.configuration.hook",
    "vllm_npu_models.loader",
    "vllm_npu_models.registration",
    "vllm_npu_platform.attention.backend",
    "vllm_npu_platform.checks",
    "vllm_npu_platform.kernels",
    "vllm_npu_platform.worker",
    "vllm_npu_quantization.configs",
    "vllm_npu_quantization.on_load.config",
    "vllm_npu_quantization.registration",
    "vllm_npu_runtime.drivers.openvino",
    "vllm_npu_runtime.openvino.convert",
    "vllm_npu_runtime.openvino.executable",
    "vllm_npu_runtime.openvino.saved",
)
"""What engines import, and what reading the tests doesn't."""


def start() -> None:
    """Fork the server from this process.

    Raises:
        RuntimeError: this process can't be forked any more.
    """
    from vllm_npu_platform.processes.quiet import obstacles

    for name in IMPORTED:
        __import__(name)
    if found := [each for each in obstacles() if each not in HARMLESS]:
        raise RuntimeError(f"reading the tests has left what a fork would lose: {found}")
    resource_tracker.ensure_running()
    with socket(AF_UNIX) as listener:
        address = connection.arbitrary_address("AF_UNIX")
        listener.bind(address)
        listener.listen()
        ending, alive = os.pipe()
        gc.collect()
        gc.freeze()  # Collecting garbage would copy pages that the processes share.
        if (server := os.fork()) == 0:
            os.close(alive)
            _known_to_its_children(address)
            _serve(listener.detach(), ending)
        gc.unfreeze()
    os.close(ending)
    python: Any = forkserver._forkserver
    python._forkserver_address = address
    python._forkserver_alive_fd = alive
    python._forkserver_pid = server


def _known_to_its_children(address: str) -> None:
    """They fork by the same server what they can't fork themselves; it isn't theirs to start."""
    python: Any = forkserver._forkserver
    python._forkserver_address = address
    python._forkserver_pid = os.getpid()
    python.ensure_running = lambda: None


def _serve(listener: int, ending: int) -> None:
    # As it ends, an engine looks for garbage in all that was imported, several times.
    gc.unfreeze = lambda: None
    try:
        forkserver.main(listener, ending, [])
    finally:
        os._exit(0)


def process(
    function: Callable[..., object],
    *arguments: Any,
    log: Path,
    environment: dict[str, str] | None = None,
) -> BaseProcess:
    """A started process that calls a function, and whose exit code says how that ended.

    Args:
        function: called with the arguments.
        arguments: can be pickled.
        log: what the process writes.
        environment: None: that of this process.
    """
    given = (dict(os.environ) if environment is None else environment, log, function, *arguments)
    forked = get_context("forkserver").Process(target=_run, args=given)
    forked.start()
    return forked


def command(name: str, arguments: Sequence[str]) -> None:
    """The command `vllm` or `vllm-npu`, for `process`, in a session of its own.

    What vLLM decides as it is imported is what it is in the tests' process: the plugins, and
    whether there is a device.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [name, *arguments]
    atexit._clear()  # What the tests' process is to do isn't the command's.
    if name == "vllm":
        from vllm.entrypoints.cli.main import main
    else:
        from vllm_npu_runtime.cli import main
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # multiprocessing doesn't


def _run(
    environment: dict[str, str], log: Path, function: Callable[..., object], *arguments: Any
) -> None:
    from vllm.logger import _configure_vllm_root_logger

    from vllm_npu_platform.processes.fork_server import settle_in

    settle_in(environment)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    _configure_vllm_root_logger()
    function(*arguments)
