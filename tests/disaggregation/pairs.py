"""An engine that prefills, one that decodes, and the example's proxy in front of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import CONTRACTS, DEVICES
from tests.disaggregation.polling import yielding
from tests.serving import Server, free_port, serve

PROXY = Path(__file__).resolve().parents[2] / "examples" / "disaggregation" / "proxy.py"
MODEL = "demo"
CHUNK = 128
"""Most tokens in a step, so that a longer prompt is prefilled in chunks."""


@dataclass(frozen=True)
class Pair:
    """Servers that have answered.

    Attributes:
        prefill: computes prompts.
        decode: generates.
        proxy: for clients.
    """

    prefill: Server
    decode: Server
    proxy: Server


@contextmanager
def pair(
    model: Path,
    contract: str,
    transfer: Callable[[str], dict[str, Any]],
    logs: Path,
    *options: str | int,
) -> Iterator[Pair]:
    """A pair for a model.

    Args:
        model: a directory.
        contract: one of `CONTRACTS`.
        transfer: what `--kv-transfer-config` says to the engine of each role.
        logs: where servers log.
        options: of both engines.
    """
    with ExitStack() as stack:
        stack.enter_context(yielding())
        prefill, decode = (
            stack.enter_context(
                engine(model, contract, transfer(role), logs / f"{role}.log", *options)
            )
            for role in ("kv_producer", "kv_consumer")
        )
        command = (sys.executable, PROXY)
        # A processor that has too much to do is not a reason to give an engine up.
        urls = (f"--prefill={prefill.url}", "--decode", decode.url, "--connect-timeout", 60)
        proxy = stack.enter_context(serve(*urls, command=command, log=logs / "proxy.log"))
        yield Pair(prefill, decode, proxy)


@contextmanager
def engine(
    model: Path, contract: str, transfer: dict[str, Any], log: Path, *options: str | int
) -> Iterator[Server]:
    """One of the two."""
    arguments = (
        *("--served-model-name", MODEL),
        *("--dtype", "float32"),
        *("--max-model-len", 1024),
        *("--max-num-seqs", 8),
        *("--max-num-batched-tokens", CHUNK),
        *("--kv-cache-memory-bytes", 32 << 20),
        *("--additional-config", json.dumps({"npu": CONTRACTS[contract]})),
        *("--kv-transfer-config", json.dumps(transfer)),
        *options,
    )
    env = {
        "VLLM_NPU_DEVICE": DEVICES.get(contract, "reference"),
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(free_port()),
        # Else a process reads the other one's memory, and one that was stopped seems to answer.
        "UCX_TLS": "tcp",
    }
    with serve(model, *arguments, env=env, log=log, forked=True) as server:
        yield server


def complete(server: Server, prompt: list[int], new: int, **fields: Any) -> list[int]:
    """Greedy tokens of a prompt."""
    completion = server.openai.completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=new,
        temperature=0,
        extra_body={"ignore_eos": True, "return_token_ids": True, **fields},
    )
    tokens: list[int] = completion.choices[0].model_extra["token_ids"]
    return tokens


def gain(server: Server, before: dict[str, float], name: str) -> float:
    """By how much a counter has grown."""
    return server.metrics().get(name, 0.0) - before.get(name, 0.0)
