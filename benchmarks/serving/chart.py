"""The picture: one panel of bars for each case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.serving.lineup import OURS

OUR_COLOR, PEER_COLOR = "#1f77b4", "#b8b8b8"
PANEL_INCHES, ROW_INCHES = 2.6, 0.36


def panels(report: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """Title and tokens per second of each contender, case by case."""
    plan, found = report["plan"], report["figures"]
    cases = [("prefill", batch) for batch in plan["prefill_batches"]]
    cases += [("decode", batch) for batch in plan["batches"]]
    return [
        (
            f"{what}, batch {batch}",
            {
                name: each["cases"][batch].get(f"{what}_tokens_per_s", 0.0)
                for name, each in found.items()
            },
        )
        for what, batch in cases
    ]


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = panels(report)
    rows = len(report["figures"])
    size = (PANEL_INCHES * len(shown), 0.8 + ROW_INCHES * rows)
    figure, axes = pyplot.subplots(1, len(shown), figsize=size, squeeze=False, sharey=True)
    for axis, (title, rates) in zip(axes[0], shown, strict=True):
        colors = [OUR_COLOR if name == OURS else PEER_COLOR for name in rates]
        bars = axis.barh(list(rates), list(rates.values()), color=colors)
        axis.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 1.25 * max(1.0, *rates.values()))
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.supxlabel("tokens per second", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
