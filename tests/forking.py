"""Processes of tests, forked from one that has imported everything and computed nothing.

Importing vLLM takes longer than starting an engine. A test process has imported it once its tests
are collected; it then forks a server (`start`), which forks engines from then on, whatever the
tests compute meanwhile: a process with OpenMP's or OpenVINO's threads can't be forked, as the
child would wait for them forever.

vLLM starts an engine by the method that `VLLM_WORKER_MULTIPROC_METHOD` names; `fork` is to be a
fork of that server. Python's own server for forks does the work.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from collections.abc import Callable
from multiprocessing import connection, context, forkserver, resource_tracker
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

METHOD = "fork"
IMPORTED = (
    "openvino.frontend.pytorch.fx_decoder",
    "torch._dynamo.backends.inductor",
    "torch.distributed.tensor.experimental",
    "torch.export._trace",
    "vllm.distributed.elastic_ep.elastic_execute",
    "vllm.entrypoints.llm",
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

_log: Path | None = None
"""Where this process writes, if it is one with a log."""


def start() -> None:
    """Fork the server from this process, which must not have computed anything."""
    for name in IMPORTED:
        __import__(name)
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
            try:
                forkserver.main(listener.detach(), ending, [])
            finally:
                os._exit(0)
        gc.unfreeze()
    os.close(ending)
    python: Any = forkserver._forkserver
    python._forkserver_address = address
    python._forkserver_alive_fd = alive
    python._forkserver_pid = server
    context._concrete_contexts[METHOD] = Forking()  # type: ignore[attr-defined]


class Forked(context.ForkServerProcess):
    """A process with the environment and the directory of the one that starts it.

    Attributes:
        log: file for what it and processes that it forks write, instead of where this one does.
    """

    log: Path | None = None
    _target: Any
    _args: Any
    _kwargs: Any

    def start(self) -> None:
        """Fork the server."""
        import torch

        what = pickle.dumps((self._target, self._args, self._kwargs))
        here = dict(os.environ), os.getcwd(), torch.get_num_threads()
        self._target, self._args, self._kwargs = _run, (what, self.log or _log, *here), {}
        super().start()


class Forking(context.ForkServerContext):
    """The start method."""

    Process = Forked


def process(function: Callable[..., object], *arguments: Any, log: Path | None = None) -> Forked:
    """A started process that calls a function, and whose exit code says how that ended."""
    forked = Forked(target=function, args=arguments)
    forked.log = log
    forked.start()
    return forked


def _run(
    what: bytes, log: Path | None, environment: dict[str, str], directory: str, threads: int
) -> None:
    """What the forked process does."""
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    torch.set_num_threads(threads)
    if log is not None:
        _write_to(log)
    # As it ends, an engine looks for garbage in all that was imported, several times.
    gc.unfreeze = lambda: None
    target, arguments, keywords = pickle.loads(what)
    target(*arguments, **keywords)


def _write_to(log: Path) -> None:
    global _log
    _log = log
    from vllm.logger import _configure_vllm_root_logger

    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    _configure_vllm_root_logger()
