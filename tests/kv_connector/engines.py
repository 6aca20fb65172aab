"""Engines whose KV goes outside the device, and what they tell of it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.asking import ask, tokens_of
from tests.inside import ask_inside

if TYPE_CHECKING:
    from tests.conftest import Engines

BLOCK = 32
OPTIONS: dict[str, Any] = {
    "block_size": BLOCK,
    "max_num_seqs": 64,
    "max_model_len": 768,
    "disable_log_stats": False,
}
LOADS = {"vllm:kv_offload_load_bytes", "vllm:kv_offload_load"}


def connected(
    engines: Engines,
    name: str,
    contract: str,
    tiers: tuple[dict[str, Any], ...] = (),
    life: int = 0,
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """The engine for a tiny model, with `NPUConnector`.

    Args:
        engines: those that run.
        name: of the model.
        contract: of the KV cache.
        tiers: behind host memory.
        life: another number gives another engine of the same kind, as after a restart.
        extra: options of the connector over the usual ones.
        options: of vLLM.
    """
    key = repr((name, contract, life, sorted(options.items(), key=str)))
    transfer = transfer_config(tiers, key, **(extra or {}))
    return engines.get(name, contract, kv_transfer_config=transfer, **{**OPTIONS, **options})


def transfer_config(tiers: tuple[dict[str, Any], ...], key: str, **extra: Any) -> Any:
    """What `--kv-transfer-config` says.

    Args:
        tiers: behind host memory.
        key: tells engines apart that are to have the same.
        extra: options of the connector over the usual ones.
    """
    from vllm.config import KVTransferConfig

    given = {"cpu_bytes_to_use": "64MiB", "load": "always", **extra}
    given["secondary_tiers"] = list(tiers)
    # vLLM makes an identifier up, which would make every configuration another one.
    identifier = hashlib.sha256(repr((key, given)).encode()).hexdigest()[:16]
    return KVTransferConfig(
        kv_connector="NPUConnector",
        kv_role="kv_both",
        engine_id=f"test-{identifier}",
        kv_connector_extra_config=given,
    )


def disk(root: Path, **options: Any) -> dict[str, Any]:
    """A tier in a directory."""
    return {"type": "fs", "root_dir": str(root), "max_bytes": "64MiB", **options}


def metric(llm: Any, name: str, **labels: str) -> float:
    """The sum of a counter or gauge over the labels that aren't given."""
    return float(
        sum(
            each.value
            for each in llm.get_metrics()
            if each.name == name and labels.items() <= each.labels.items()
        )
    )


def settled(llm: Any) -> None:
    """Wait until every block that was computed lies where it belongs."""
    ask_inside(llm, _settle)


def _settle(core: Any) -> None:
    deadline = time.monotonic() + 60
    while core.scheduler.has_finished_requests() or _pending(core):
        assert time.monotonic() < deadline, "blocks are still being stored"
        core.step_fn()
        time.sleep(0.01)


def _pending(core: Any) -> bool:
    return bool(core.scheduler.connector.has_pending_push_work())


def forget(llm: Any, host: bool = False) -> None:
    """Empty the device's prefix cache, and the host tier too where that is asked for."""
    settled(llm)
    assert llm.llm_engine.reset_prefix_cache(reset_connector=host)


def again(llm: Any, prompts: list[list[int]], new: int, host: bool = False) -> list[list[int]]:
    """Tokens of prompts whose KV has to come from outside the device, which is checked."""
    forget(llm, host)
    outputs = ask(llm, prompts, new)
    for prompt, output in zip(prompts, outputs, strict=True):
        whole = (len(prompt) - 1) // BLOCK * BLOCK
        assert output.num_cached_tokens >= whole, (output.num_cached_tokens, len(prompt))
    return tokens_of(outputs)
