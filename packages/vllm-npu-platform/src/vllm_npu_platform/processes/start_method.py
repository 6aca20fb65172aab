"""Which way a process of the engine is started, decided when it is."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from multiprocessing import context, popen_forkserver, popen_spawn_posix
from multiprocessing.popen_fork import Popen
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from vllm_npu_platform.processes import fork_server, forking
from vllm_npu_platform.processes.lifetime import end_with_parent
from vllm_npu_platform.processes.main_module import hidden_if_unguarded
from vllm_npu_platform.processes.quiet import obstacles
from vllm_npu_platform.stats import beginning
from vllm_npu_runtime.errors import ConfigurationError

VARIABLE = "VLLM_WORKER_MULTIPROC_METHOD"
METHODS = ("fork", "forkserver", "spawn")
NAME = "vllm-npu"
"""Of our context among multiprocessing's, under which vLLM finds it."""

_logger = logging.getLogger("vllm.npu")


def use(numa_bind: bool = False) -> None:
    """Have vLLM start its processes by our context.

    Args:
        numa_bind: cores are bound by vLLM's own way of spawning, which is then left alone.

    Raises:
        ConfigurationError: the user asked for a method that there isn't.
    """
    import vllm.envs

    chosen = chosen_by_user()
    if chosen is not None and chosen not in METHODS:
        raise ConfigurationError(
            f"{VARIABLE}='{chosen}': it must be one of {', '.join(METHODS)}. Unset it to have "
            "engines forked where that is safe."
        )
    if numa_bind:
        return
    context._concrete_contexts.setdefault(NAME, _Context())  # type: ignore[attr-defined]
    vllm.envs.environment_variables[VARIABLE] = lambda: NAME


def chosen_by_user() -> str | None:
    """The start method that the user asked for, if any.

    vLLM's command sets the variable to "spawn" itself, which doesn't count.
    """
    value = os.environ.get(VARIABLE)
    by_command = value == "spawn" and _is_vllm_command() and not _was_set_at_start()
    return None if by_command else value


def method_for(process: Any) -> str:
    """How to start a process now; says why at debug level."""
    chosen = chosen_by_user()
    if chosen is not None:
        if chosen == "fork" and (reasons := obstacles()):
            _logger.warning(
                "%s=fork: '%s' is forked though that isn't safe (%s). If it hangs, unset the "
                "variable.",
                VARIABLE,
                process.name,
                ", ".join(reasons),
            )
        return chosen
    if process._kwargs.get("tensor_queue") is not None:
        _say(process, "spawned", "tensors are sent to it through shared memory")
        return "spawn"
    if not (reasons := obstacles()):
        _say(process, "forked", "nothing here would be lost")
        return "fork"
    if fork_server.is_running():
        _say(process, "forked by the fork server", ", ".join(reasons))
        return "forkserver"
    _say(process, "spawned", ", ".join(reasons))
    return "spawn"


def prepare() -> None:
    """Start a fork server, if this process can't be forked as early as now.

    To be called while vLLM is being imported; costs nothing where a fork will do.
    """
    if multiprocessing.parent_process() is not None:  # an engine's process already
        return
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":
        return
    wanted = chosen_by_user()
    if wanted == "forkserver" or (wanted is None and obstacles()):
        fork_server.start()


class _Process(BaseProcess):
    """A process that is started as `method_for` says, and ends when its parent is gone."""

    _start_method = None
    _of_parent: tuple[dict[str, str], beginning.Beginning] | None = None

    @staticmethod
    def _Popen(process: Any) -> Popen:
        method = method_for(process)
        if method == "forkserver":
            process._of_parent = (dict(os.environ), beginning.known())
        started: Popen
        if method == "fork":
            started = forking.Popen(process)
        else:
            way = popen_forkserver if method == "forkserver" else popen_spawn_posix
            with hidden_if_unguarded():
                started = way.Popen(process)
        beginning.handed_over()
        return started

    def run(self) -> None:
        """In the child."""
        if self._of_parent is not None:
            environment, began = self._of_parent
            fork_server.settle_in(environment)
            beginning.take_over(began)
        end_with_parent()
        super().run()


class _Context(context.SpawnContext):
    """multiprocessing with processes of ours.

    Locks and queues are those for spawning, which can be handed over in every way.
    """

    _name = "spawn"
    Process = _Process  # type: ignore[assignment]


def _is_vllm_command() -> bool:
    main = sys.modules.get("__main__")
    module = getattr(getattr(main, "__spec__", None), "name", "") or ""
    return "vllm.entrypoints.cli.main" in sys.modules or module.startswith("vllm.entrypoints.")


def _was_set_at_start() -> bool:
    """Whether this process was started with the variable; what it sets itself isn't there."""
    try:
        started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(f"{VARIABLE}=".encode()) for entry in started_with)


def _say(process: BaseProcess, how: str, why: str) -> None:
    _logger.debug("Process '%s' is %s: %s.", process.name, how, why)
