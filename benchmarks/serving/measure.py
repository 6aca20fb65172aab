"""One run: starts, then rounds in which the contenders take turns."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.cases import Plan
from benchmarks.serving.checkpoint import ROOT
from benchmarks.serving.lineup import MACHINE, Entrant
from benchmarks.serving.process import Child, Failed, cpu_seconds_of_all

WARM_UP_ROUNDS = 2
"""Not counted: some engines take two runs of a shape before they are at their speed."""

PREFILL_REPEATS = 3
LOOK_SECONDS = 0.5

Sample = dict[str, Any]


def disturbed(child: Child, work: Callable[[], Sample]) -> Sample:
    """What `work` returns, with `others`: the share of the machine's processor time that went to
    anything but this contender meanwhile, the idle contenders included."""
    begin, busy, own = time.perf_counter(), cpu_seconds_of_all(), child.cpu_seconds()
    result = work()
    seconds = time.perf_counter() - begin
    foreign = (cpu_seconds_of_all() - busy) - (child.cpu_seconds() - own)
    return {**result, "others": max(0.0, foreign / seconds / (psutil.cpu_count() or 1))}


@dataclass
class Run:
    """The measuring of one plan.

    Attributes:
        scratch: for caches and logs.
        quiet: most of the processor time that others may take in a good sample.
        retries: how often a sample that others disturbed is taken again.
        patience: most seconds to wait for a quiet machine before each sample.
        say: takes a line about progress.
    """

    plan: Plan
    checkpoint: Path
    scratch: Path
    quiet: float
    retries: int
    patience: float
    say: Callable[[str], None]
    children: dict[str, Child] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def limits(self, earlier: Sample | None = None) -> Sample:
        """Of the machine: the fastest of every attempt, `earlier` ones included, since a limit is
        what it can do when nothing disturbs it."""
        self._wait()
        child = self._spawn(MACHINE, self.scratch / "cache" / MACHINE.name)
        asked = {"threads": self.plan.threads, "dtype": self.plan.shape.dtype}
        try:
            found = disturbed(child, lambda: child.ask(do="limits", **asked))
        finally:
            child.stop()
        self.say(
            f"reads {max(found['reads'].values()) / 1e9:.1f} GB/s, multiplies "
            f"{max(found['gemms'].values()) / 1e9:.0f} GFLOP/s, "
            f"others took {100 * found['others']:.0f} %"
        )
        if earlier is not None:
            for group in ("reads", "gemms"):
                pairs = found[group].items()
                found[group] = {way: max(rate, earlier[group][way]) for way, rate in pairs}
            found["others"] = min(found["others"], earlier["others"])
        found["read_bytes_per_s"] = max(found["reads"].values())
        found["gemm_flops"] = max(found["gemms"].values())
        return found

    def start(self, entrant: Entrant) -> None:
        """Start it from an empty cache and from the filled one, again and again; the last warm
        process stays for the rounds."""
        # Results are kept in the repository, so a path in them starts from there.
        variables = {k: v.removeprefix(f"{ROOT}/") for k, v in entrant.variables.items()}
        result: dict[str, Any] = {"starts": [], "samples": [], "variables": variables}
        self.results[entrant.name] = result
        try:
            for attempt in range(self.plan.starts):
                cache = self.scratch / "cache" / f"{entrant.name}-{attempt}"
                shutil.rmtree(cache, ignore_errors=True)
                for kind in ("cold", "warm"):
                    self._stop(entrant.name)
                    sample = self._started(entrant, cache)
                    result["starts"].append({"kind": kind, **sample})
                    self.say(
                        f"{entrant.name}: {kind} start, engine {sample['engine_s']:.1f} s, "
                        f"process {sample['process_s']:.1f} s"
                    )
        except Failed as failure:
            self._drop(entrant.name, failure)

    def _spawn(self, entrant: Entrant, cache: Path) -> Child:
        log = self.scratch / "logs" / f"{entrant.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Child(entrant, cache, log, self.plan.threads)

    def _started(self, entrant: Entrant, cache: Path) -> Sample:
        room = {
            name: getattr(self.plan, name)
            for name in ("max_model_len", "max_num_seqs", "kv_cache_gib", "threads")
        } | {"dtype": self.plan.shape.dtype}
        self._wait()
        begin = time.perf_counter()
        child = self.children[entrant.name] = self._spawn(entrant, cache)
        (prompt,) = self.plan.prompts(1, seed=0)
        question = {"checkpoint": str(self.checkpoint), "room": room, "prompt": prompt}
        sample = disturbed(child, lambda: child.ask(watched=True, do="start", **question))
        return {**sample, "process_s": time.perf_counter() - begin}

    def rounds(self) -> None:
        """All contenders in turn, another one first each time, case by case."""
        for number in range(-WARM_UP_ROUNDS, self.plan.rounds):
            for batch in self.plan.batches:
                prompts = self.plan.prompts(batch, seed=1000 * (number + 10) + batch)
                names = list(self.children)
                shift = number % max(len(names), 1)
                for name in names[shift:] + names[:shift]:
                    self._turn(name, number, batch, prompts)
            self.say(f"round {number + 1} of {self.plan.rounds}")

    def _turn(self, name: str, number: int, batch: int, prompts: list[list[int]]) -> None:
        child = self.children[name]
        for _ in range(1 + (self.retries if number >= 0 else 0)):
            try:
                self._wait()
                sample = self._pair(child, prompts)
            except Failed as failure:
                self._drop(name, failure)
                return
            if number >= 0:
                self.results[name]["samples"].append({"round": number, "batch": batch, **sample})
            if sample["others"] <= self.quiet:
                return

    def _pair(self, child: Child, prompts: list[list[int]]) -> Sample:
        """One new token for each prompt, and then all of them: apart, the time of decoding."""
        # One prefill is too short to tell whether others disturbed it.
        repeats = PREFILL_REPEATS if len(prompts) in self.plan.prefill_batches else 1
        ones: list[Sample] = []

        def prefill() -> Sample:
            for _ in range(repeats):
                ones.append(child.ask(do="generate", prompts=prompts, new_tokens=1))
            return ones[-1]

        def everything() -> Sample:
            return child.ask(do="generate", prompts=prompts, new_tokens=self.plan.new_tokens)

        one, whole = disturbed(child, prefill), disturbed(child, everything)
        child.look_at_memory()
        prefill_s = statistics.median(each["seconds"] for each in ones)
        device = None
        if one["device_seconds"] is not None:
            device = whole["device_seconds"] - one["device_seconds"]
        return {
            "prefill_s": prefill_s,
            "decode_s": whole["seconds"] - prefill_s,
            "decode_device_s": device,
            "first": one["first"],
            "others": max(one["others"], whole["others"]),
        }

    def _wait(self) -> None:
        """Until the machine is quiet, or patience has an end."""
        end = time.perf_counter() + self.patience
        while time.perf_counter() < end:
            busy, begin = cpu_seconds_of_all(), time.perf_counter()
            time.sleep(LOOK_SECONDS)
            seconds = time.perf_counter() - begin
            if (cpu_seconds_of_all() - busy) / seconds / (psutil.cpu_count() or 1) < self.quiet:
                return

    def _drop(self, name: str, failure: Failed) -> None:
        self.say(f"{name} failed: {failure}")
        self.results[name]["error"] = str(failure)
        self._stop(name)

    def _stop(self, name: str) -> None:
        if (child := self.children.pop(name, None)) is not None:
            self.results[name]["peak_bytes"] = child.peak_bytes or None
            child.stop()

    def close(self) -> None:
        """End all processes, noting their peaks of memory."""
        for name in list(self.children):
            self._stop(name)


def measure(run: Run, entrants: Sequence[Entrant]) -> dict[str, Any]:
    """Limits of the machine and every contender's results; no process is left behind."""
    run.say("limits of the machine")
    limits = run.limits()
    try:
        for entrant in entrants:
            run.start(entrant)
        run.rounds()
    finally:
        run.close()
    return {"limits": run.limits(limits), "contenders": run.results}
