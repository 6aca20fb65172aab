"""An engine in a process of its own, as a server has it, asked from here."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

Tokens = list[int]


class Engine:
    """Does one thing at a time.

    Args:
        checkpoint: of the model.
        connector: `kv_connector_extra_config` of NPUConnector, with a directory as its only tier;
            None for no connector.
        options: of vLLM.
    """

    def __init__(self, checkpoint: Path, connector: dict[str, Any] | None, **options: Any) -> None:
        # vLLM picks its platform as it is imported, by variables that the caller sets.
        from vllm import LLM
        from vllm.config import KVTransferConfig

        self._directory: Path | None = None
        if connector is not None:
            self._directory = Path(connector["secondary_tiers"][0]["root_dir"])
            options["kv_transfer_config"] = KVTransferConfig(
                kv_connector="NPUConnector",
                kv_role="kv_both",
                kv_connector_extra_config=connector,
            )
        self._llm = LLM(str(checkpoint), **options)

    def ask(self, prompts: list[Tokens], new: int) -> tuple[float, list[Tokens]]:
        """Seconds, and greedy tokens."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        inputs: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts]
        # What earlier requests left for the system to write isn't this one's time.
        os.sync()
        begun = time.perf_counter()
        outputs = self._llm.generate(inputs, params, use_tqdm=False)
        seconds = time.perf_counter() - begun
        return seconds, [list(output.outputs[0].token_ids) for output in outputs]

    def forget(self, host: bool = False) -> None:
        """Once all is stored, empty the device's prefix cache, and host memory where asked."""
        if self._directory is not None:
            _settle(self._directory)
        if not self._llm.reset_prefix_cache(reset_connector=host):
            raise SystemExit("the engine can't forget: blocks are still in use")

    def close(self) -> None:
        """End the engine's process."""
        self._llm.llm_engine.engine_core.shutdown()


def _settle(directory: Path, still: float = 0.5) -> None:
    """Wait until a tier's directory hasn't changed for so many seconds."""
    before, since = -1, time.monotonic()
    while time.monotonic() - since < still:
        now = sum(1 for path in directory.rglob("*") if path.is_file())
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.05)
