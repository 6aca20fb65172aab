"""The tables, and docs/benchmarks.md from them; every figure comes from the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from benchmarks.serving.arithmetic import told
from benchmarks.serving.cases import shape_of

TEMPLATE = Path(__file__).with_name("page.md")
FAILED, MISSING = "failed", "–"

Record = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 0, unit: float = 1.0) -> str:
    """Of some unit, or a dash."""
    return MISSING if value is None else f"{value / unit:,.{digits}f}"


def percent(value: float | None) -> str:
    """Of a share."""
    return MISSING if value is None else f"{100 * value:.0f} %"


def throughput(report: Record) -> str:
    """A row for each contender, a column for each case."""
    plan = report["plan"]
    batches, prefills = plan["batches"], plan["prefill_batches"]
    head = [
        "",
        *(f"prefill, batch {batch}" for batch in prefills),
        *(f"decode, batch {batch}" for batch in batches),
        *(f"step ms, batch {batch}" for batch in batches),
        "bandwidth",
        "GEMM",
    ]
    rows = []
    for name, found in report["figures"].items():
        cases = found["cases"]
        if found["error"]:
            rows.append([name, *[FAILED] * (len(head) - 1)])
            continue
        rows.append(
            [
                name,
                *(number(cases[batch].get("prefill_tokens_per_s")) for batch in prefills),
                *(number(cases[batch].get("decode_tokens_per_s"), 1) for batch in batches),
                *(number(cases[batch].get("step_s"), 1, 1e-3) for batch in batches),
                percent(cases[min(batches)].get("bandwidth_share")),
                percent(cases[max(prefills)].get("prefill_gemm_share")),
            ]
        )
    return table(head, rows)


def starts(report: Record) -> str:
    """A row for each contender: start-up, memory, agreement."""
    head = ["", "engine, cold", "engine, warm", "process, cold", "process, warm"]
    head += ["peak memory, GB", "agreement"]
    rows = []
    for name, found in report["figures"].items():
        times = [
            number(found["starts"][kind][key], 1)
            for key in ("engine_s", "process_s")
            for kind in ("cold", "warm")
        ]
        memory = number(found["peak_bytes"], 2, 1e9)
        rows.append([name, *times, memory, percent(found["agreement"])])
    return table(head, rows)


def verdicts(report: Record) -> str:
    """A row for each requirement."""
    words = {True: "kept", False: "**missed**", None: "not measured"}
    rows = [
        [
            each["what"],
            number(each["value"], 2),
            f"{each['sign']} {each['limit']:.2f}",
            words[each["passed"]],
        ]
        for each in report["verdicts"]
    ]
    return table(["", "measured", "limit", ""], rows)


def limits(report: Record) -> str:
    """The machine's."""
    found = report["limits"]
    return table(
        ["", "limit", "of these"],
        [
            [
                "read bandwidth, GB/s",
                number(found["read_bytes_per_s"], 1, 1e9),
                ", ".join(f"{way} {rate / 1e9:.1f}" for way, rate in found["reads"].items()),
            ],
            [
                f"{shape_of(report['plan']).dtype} GEMM, GFLOP/s",
                number(found["gemm_flops"], 0, 1e9),
                ", ".join(f"{shape} {rate / 1e9:.0f}" for shape, rate in found["gemms"].items()),
            ],
        ],
    )


def contenders(report: Record) -> str:
    """A row for each: versions, settings and variables."""

    def listed(pairs: dict[str, Any]) -> str:
        shown = (f"`{key}={Path(str(value)).name or value}`" for key, value in pairs.items())
        return " ".join(shown)

    rows = []
    for name, result in report["contenders"].items():
        start = result["starts"][-1] if result["starts"] else {"versions": {}, "settings": {}}
        versions = ", ".join(f"{package} {v}" for package, v in start["versions"].items())
        rows.append([name, versions, listed(start["settings"]), listed(result["variables"])])
    return table(["", "versions", "settings", "variables"], rows).replace("---:", "---")


def failures(report: Record) -> str:
    """What went wrong, in words of the contenders' logs."""
    parts = [
        f"\n### {name} failed\n\n```text\n{found['error']}\n```\n"
        for name, found in report["figures"].items()
        if found["error"]
    ]
    return "\n".join(parts)


def disturbance(report: Record) -> str:
    """What to say of others on the machine."""
    cases = [case for found in report["figures"].values() for case in found["cases"].values()]
    most = max((case["others"] for case in cases if case), default=0.0)
    return f"; other processes took at most {100 * most:.0f} % of the processors in any sample"


def tables(report: Record) -> str:
    """For the console."""
    parts = (throughput(report), starts(report), verdicts(report), limits(report))
    return "\n\n".join(parts)


def page(report: Record, picture: str) -> str:
    """The whole page."""
    where, plan = report["machine"], report["plan"]
    shape = shape_of(plan)
    parameters = (shape.layer_parameters + 2 * shape.head_parameters) / 1e6
    machine = (
        f"{where['cpu']} with {', '.join(where['cpu_flags'])}, {where['cores']} cores, "
        f"{where['memory_bytes'] / 2**30:.0f} GiB of memory, {where['system']}"
    )
    model = (
        f"{parameters:.0f} million parameters, hidden size {shape.hidden}, {shape.layers} layers, "
        f"{shape.heads} heads of {shape.head_size} and {shape.kv_heads} of keys and values, "
        f"vocabulary of {shape.vocabulary}"
    )
    return Template(TEMPLATE.read_text()).substitute(
        date=where["date"].split("T")[0],
        commit=where["commit"],
        machine=machine,
        model=model,
        dtype=shape.dtype,
        told=told(shape.dtype),
        threads=plan["threads"],
        kv=plan["kv_cache_gib"],
        prompt=plan["prompt_tokens"],
        new=plan["new_tokens"],
        rounds=plan["rounds"],
        disturbance=disturbance(report),
        picture=picture,
        throughput=throughput(report),
        gemm_batch=max(plan["prefill_batches"]),
        starts=starts(report),
        verdicts=verdicts(report) + failures(report),
        limits=limits(report),
        buffer=report["limits"]["buffer_bytes"] >> 30,
        contenders=contenders(report),
    )
