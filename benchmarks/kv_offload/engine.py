"""An engine in a process of its own, which does one thing at a time when it is told to."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Tokens = list[int]


class Engine:
    """Talks to the process.

    Args:
        checkpoint: of the model.
        device: to run on.
        connector: `kv_connector_extra_config` of NPUConnector; None for no connector.
        options: of vLLM.
    """

    def __init__(
        self, checkpoint: Path, device: str, connector: dict[str, Any] | None, **options: Any
    ) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        arguments = (theirs, str(checkpoint), device, connector, options)
        self._process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self._answer()

    def ask(self, prompts: list[Tokens], new: int) -> tuple[float, list[Tokens]]:
        """Seconds, and greedy tokens."""
        self._ours.send(("ask", prompts, new))
        seconds, tokens = self._answer()
        return seconds, tokens

    def forget(self, host: bool = False) -> None:
        """Once all is stored, empty the device's prefix cache, and host memory where asked."""
        self._ours.send(("forget", host))
        self._answer()

    def close(self) -> None:
        """End the process."""
        self._ours.send(("close",))
        self._process.join(60)

    def _answer(self) -> Any:
        while not self._ours.poll(1.0):
            if not self._process.is_alive():
                raise SystemExit("the engine's process has ended")
        return self._ours.recv()


def _serve(
    pipe: Connection,
    checkpoint: str,
    device: str,
    connector: dict[str, Any] | None,
    options: dict[str, Any],
) -> None:
    variables = {
        "VLLM_NPU_DEVICE": device,
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_WAIT_POLICY": "passive",
        "HF_HUB_OFFLINE": "1",
    }
    os.environ.update(variables)
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    if connector is not None:
        options["kv_transfer_config"] = KVTransferConfig(
            kv_connector="NPUConnector",
            kv_role="kv_both",
            kv_connector_extra_config=connector,
        )
    llm = LLM(checkpoint, **options)
    pipe.send("ready")
    while (command := pipe.recv())[0] != "close":
        if command[0] == "ask":
            prompts = [{"prompt_token_ids": prompt} for prompt in command[1]]
            params = SamplingParams(
                temperature=0, max_tokens=command[2], ignore_eos=True, detokenize=False
            )
            # What earlier requests left for the system to write isn't this one's time.
            os.sync()
            begun = time.perf_counter()
            outputs = llm.generate(prompts, params, use_tqdm=False)
            seconds = time.perf_counter() - begun
            pipe.send((seconds, [list(output.outputs[0].token_ids) for output in outputs]))
        else:
            if connector is not None:
                _settle(llm)
            llm.llm_engine.reset_prefix_cache(reset_connector=command[1])
            pipe.send(None)
    llm.llm_engine.engine_core.shutdown()


def _settle(llm: Any) -> None:
    """Step until everything lies where it is to be stored."""
    core = llm.llm_engine.engine_core.engine_core
    while core.scheduler.has_finished_requests() or (
        core.scheduler.connector.has_pending_push_work()
    ):
        core.step_fn()
        time.sleep(0.005)
