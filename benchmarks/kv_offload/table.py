"""The result as a page."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.serving.arithmetic import told

LIMITS = {"host": 5.0, "disk": 3.0}
COST = 0.03


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the ratios of pairs."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    first, batch = result["first_token"], result["throughput"]
    where = result["circumstances"]
    seconds = first["seconds"]
    lines = [
        "# KV outside the device: figures",
        "",
        f"`nox -s bench -- kv-offload` on {where['date']}, commit {where['commit']}, "
        f"{where['cpu']}, {where['cores']} cores, {result['device']}; load before: "
        f"{where['load_before']:.2f}. Llama of 350 M parameters, {told(result['dtype'])}; medians.",
        "",
        f"Time to the first token of a prompt whose first {first['prefix']} tokens left the "
        f"device's cache ({len(seconds['host'])} prompts; each was computed, then came from host "
        "memory, then from the directory):",
        "",
        "| From | ms | Times as fast as computing | Limit | |",
        "|---|---:|---:|---:|---|",
    ]
    for way, taken in seconds.items():
        faster = ratio(seconds["computed"], taken)
        limit = LIMITS.get(way)
        kept = "" if limit is None else "kept" if faster >= limit else "missed"
        shown = "" if limit is None else f"{limit:.0f}"
        lines.append(
            f"| {way} | {1e3 * statistics.median(taken):.0f} | {faster:.1f} | {shown} | {kept} |"
        )
    share = ratio(batch["seconds"]["without"], batch["seconds"]["with"])
    verdict = "kept" if share >= 1 - COST else "missed"
    lines += [
        "",
        f"Throughput without a hit, {batch['batch']} prompts of {batch['prompt']} tokens and "
        f"{batch['new']} new ones, in turns: {share:.3f} of the engine without the connector "
        f"(limit {1 - COST:.2f}: {verdict}).",
        "",
        f"Tokens were {'the same' if first['same_tokens'] else 'NOT the same'} each way.",
        "",
    ]
    return "\n".join(lines)
