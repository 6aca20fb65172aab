"""Random prefixes for as long as you like, under small tiers: no wrong token, no growth.

`python -m tests.kv_connector.soak --minutes 10` runs it as it is meant; CI runs a minute of it
with smaller tiers. Ends with 1 and a line for each limit that didn't hold.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_NPU_DEVICE", "reference")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

MIB = 1 << 20
BATCH, NEW, LONGEST, BLOCK = 8, 6, 400, 32
# The host's and the device's numbers differ in the sixth digit; a wrong block changes the first.
LEAD = 1e-2
GROWTH = 48 * MIB


@dataclass
class Findings:
    """What was seen.

    Attributes:
        requests: answered.
        wrong: of these, with a token that isn't the model's.
        cached: prompt tokens that weren't computed.
        disk: most bytes that the directory had.
        memory: bytes resident, after each batch.
        threads: after each batch.
    """

    requests: int = 0
    wrong: int = 0
    cached: int = 0
    disk: int = 0
    memory: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def problems(self, disk_limit: int) -> list[str]:
        """A line for each limit that didn't hold."""
        third = max(len(self.memory) // 3, 1)
        grown = min(self.memory[-third:]) - max(self.memory[:third])
        checks = {
            f"{self.wrong} of {self.requests} requests have wrong tokens": self.wrong > 0,
            f"{self.disk} bytes on disk of {disk_limit}": self.disk > disk_limit,
            f"memory grew by {grown} bytes": grown > GROWTH,
            f"threads grew to {self.threads[-1]}": self.threads[-1] > max(self.threads[:third]),
            "no prompt token came from a cache": self.cached == 0,
        }
        return [line for line, bad in checks.items() if bad]


class Requests:
    """Prompts whose beginnings come again now and then."""

    def __init__(self, text: list[int], roots: int) -> None:
        self._random = random.Random(0)
        starts = [self._random.randrange(len(text) - LONGEST) for _ in range(roots)]
        self._roots = [text[start : start + LONGEST] for start in starts]
        self._text = text

    def some(self) -> list[int]:
        """One."""
        pick = self._random
        root, cut = pick.choice(self._roots), pick.randrange(1, LONGEST)
        start = pick.randrange(len(self._text) - 40)
        return root[:cut] + self._text[start : start + pick.randrange(1, 40)]


class Judge:
    """Hugging Face's model, which knows whether tokens are its own."""

    def __init__(self, path: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def accepts(self, prompt: list[int], tokens: list[int]) -> bool:
        """Whether each token is the best one, or as good as the best."""
        import torch

        with torch.inference_mode():
            whole = torch.tensor([prompt + tokens[:-1]])
            logits = self._model(whole).logits[0, len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        return bool((logits.max(dim=1).values - chosen).max() < LEAD)


def soak(path: Path, root: Path, seconds: float, host: int, disk: int, text: list[int]) -> Findings:
    """Ask for as long as that."""
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig

    tier = {"type": "fs", "root_dir": str(root), "max_bytes": disk}
    transfer = KVTransferConfig(
        kv_connector="NPUConnector",
        kv_role="kv_both",
        kv_connector_extra_config={
            "cpu_bytes_to_use": host,
            "load": "always",
            "secondary_tiers": [tier],
        },
    )
    llm = LLM(
        str(path),
        dtype="float32",
        max_model_len=512,
        max_num_seqs=BATCH,
        block_size=BLOCK,
        num_gpu_blocks_override=5 * 512 // BLOCK,
        kv_transfer_config=transfer,
        seed=0,
    )
    # As many beginnings as fill both tiers a few times.
    judge, requests = Judge(path), Requests(text, roots=max(2 * disk // (LONGEST << 10), 8))
    params = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
    findings, end = Findings(), time.monotonic() + seconds
    while time.monotonic() < end:
        prompts = [requests.some() for _ in range(BATCH)]
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        _take(findings, outputs, judge, root)
    llm.llm_engine.engine_core.shutdown()
    return findings


def _take(findings: Findings, outputs: list[Any], judge: Judge, root: Path) -> None:
    import psutil

    for output in outputs:
        tokens = list(output.outputs[0].token_ids)
        findings.requests += 1
        findings.wrong += not judge.accepts(list(output.prompt_token_ids), tokens)
        findings.cached += output.num_cached_tokens or 0
    # A walk may count a file that goes and one that comes in its place.
    findings.disk = max(findings.disk, min(_size(root) for _ in range(3)))
    findings.memory.append(psutil.Process().memory_info().rss)
    findings.threads.append(threading.active_count())


def _size(root: Path) -> int:
    total = 0
    for directory, _, names in os.walk(root):  # which passes over what is evicted meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total


def main() -> int:
    """Run, and say what was found."""
    from tests import tiny_models
    from tests.prompts import text_ids

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--host", type=int, default=64, help="MiB; default: %(default)s")
    parser.add_argument("--disk", type=int, default=256, help="MiB; default: %(default)s")
    given = parser.parse_args()
    models = Path(os.environ.get("NPU_TEST_MODELS", Path.cwd() / ".cache" / "tiny-models"))
    path = tiny_models.build("llama", models)
    with tempfile.TemporaryDirectory() as directory:
        limits = (given.host * MIB, given.disk * MIB)
        seconds = 60 * given.minutes
        findings = soak(path, Path(directory), seconds, *limits, text_ids(path))
    problems = findings.problems(given.disk * MIB)
    print(
        f"{findings.requests} requests, {findings.cached} prompt tokens from caches, at most "
        f"{findings.disk / MIB:.1f} MiB on disk, {findings.memory[-1] / MIB:.0f} MiB resident"
    )
    print("\n".join(problems) or "every limit held")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
