"""Is `VLLM_PLUGINS` spelled right, and does it let the platform through?

vLLM compares its parts with the names of entry points of every group, and says nothing about a
part that matches none: a blank or a typo loads nothing.
"""

from collections.abc import Iterator
from difflib import get_close_matches

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok, warning

VARIABLE = "VLLM_PLUGINS"
PLATFORM = "npu"
STATISTICS = "npu_stats"


def check(environment: Environment) -> Iterator[Result]:
    """Compare each name with what is installed."""
    text = environment.variables.get(VARIABLE)
    if text is None:
        yield ok(f"{VARIABLE} is not set: every installed plugin is loaded.")
        return
    installed = {point.name for point in environment.plugins}
    if not text.strip():
        yield warning(
            f"{VARIABLE} is empty, which loads no plugin at all, and no platform.",
            f"`unset {VARIABLE}`, or `export {VARIABLE}={PLATFORM},{STATISTICS}`",
        )
        return
    names = text.split(",")
    if PLATFORM not in installed and PLATFORM in names:
        yield error(
            f"{VARIABLE}='{text}' names '{PLATFORM}', which isn't installed.",
            "`pip install vllm-npu-platform`, or install it from a clone.",
        )
        return
    wrong = [_mistake(name, installed) for name in names if name not in installed]
    mended = _mended(names, installed)
    if wrong:
        yield error(f"{VARIABLE}='{text}': {'; '.join(wrong)}.", f"`export {VARIABLE}={mended}`")
    elif PLATFORM not in names:
        yield warning(
            f"{VARIABLE}='{text}' leaves out '{PLATFORM}', the platform: vLLM will not use it.",
            f"`export {VARIABLE}={mended}`",
        )
    elif STATISTICS in installed and STATISTICS not in names:
        yield note(
            f"{VARIABLE}='{text}' leaves out '{STATISTICS}': /metrics has no NPU counters.",
            f"`export {VARIABLE}={text},{STATISTICS}`",
        )
    else:
        yield ok(f"{VARIABLE}={text}")


def _mistake(name: str, installed: set[str]) -> str:
    if not name.strip():
        return "there is a comma too many"
    if name.strip() in installed:
        return f"'{name}' has a blank that vLLM takes for a part of the name"
    near = _nearest(name, installed)
    if near:
        return f"no plugin is called '{name.strip()}'; the nearest is '{near}'"
    return f"no plugin is called '{name.strip()}'; installed: {', '.join(sorted(installed))}"


def _mended(names: list[str], installed: set[str]) -> str:
    """What was probably meant, the platform included."""
    stripped = [name.strip() for name in names]
    meant = [name if name in installed else _nearest(name, installed) for name in stripped]
    return ",".join(dict.fromkeys([*filter(None, meant), PLATFORM]))


def _nearest(name: str, installed: set[str]) -> str:
    return next(iter(get_close_matches(name.strip(), sorted(installed), n=1, cutoff=0.5)), "")
