"""``vllm-npu cache warm``: compile a model's graphs before a server needs them."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vllm_npu_platform.worker import NPUWorker


def warm(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model, as for `vllm serve`.")],
) -> None:
    """Compile a model's graphs and keep them, so that `vllm serve` only loads them.

    Takes the options of `vllm serve` that concern the engine; give the same ones here and there,
    as most of them decide which graphs there are.
    """
    # Here the engine is to be looked into, so it runs in this process.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm_npu_runtime.compile_cache.location import cache_directory, enabled
    from vllm_npu_runtime.errors import NPUError

    begin = time.perf_counter()
    try:
        if not enabled():
            typer.echo(
                "error: VLLM_DISABLE_COMPILE_CACHE is set: nothing is kept. Unset it.", err=True
            )
            raise typer.Exit(2)
        engine = _start(_parse([model, *context.args]))
    except (NPUError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    _report(_worker(engine), time.perf_counter() - begin, str(cache_directory()))
    # vLLM's shutdown waits for nothing that matters any more.
    sys.stdout.flush()
    os._exit(0)


def _parse(arguments: list[str]) -> Any:
    """The engine's options, as `vllm serve` would read them."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(
        prog="vllm-npu cache warm", usage="%(prog)s MODEL [options of vllm serve]"
    )
    parser.add_argument("model_tag")
    parser = AsyncEngineArgs.add_cli_args(parser)
    parsed = parser.parse_args(arguments)
    if any(each.split("=")[0] == "--model" for each in arguments):
        parser.error(f"--model: the model is '{parsed.model_tag}' already. Leave --model out.")
    parsed.model = parsed.model_tag
    return AsyncEngineArgs.from_cli_args(parsed)


def _start(arguments: Any) -> Any:
    """An engine configured as the server's is: defaults depend on who asks."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor import Executor

    from vllm_npu_platform.sessions import in_session
    from vllm_npu_runtime.errors import ConfigurationError

    context = UsageContext.OPENAI_API_SERVER
    config = arguments.create_engine_config(usage_context=context)
    if in_session(config):
        raise ConfigurationError(
            f"'{config.model_config.model}' was compiled ahead of time: there is nothing to warm. "
            "Serve it."
        )
    return LLMEngine(
        vllm_config=config,
        executor_class=Executor.get_class(config),
        log_stats=False,
        usage_context=context,
    )


def _worker(engine: Any) -> NPUWorker:
    worker: NPUWorker = engine.engine_core.engine_core.model_executor.driver_worker.worker
    return worker


def _report(worker: NPUWorker, seconds: float, directory: str) -> None:
    from vllm_npu_platform.stats import counters as names

    values = worker.counters.values
    compiled, loaded = values[names.COMPILED], values[names.LOADED]
    typer.echo(
        f"{compiled:.0f} graphs compiled, {loaded:.0f} were there already, in {seconds:.0f} s; "
        f"they are in {directory}."
    )
