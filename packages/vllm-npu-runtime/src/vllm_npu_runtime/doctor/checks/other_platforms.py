"""Could another platform take vLLM from ours?

vLLM refuses to start when two platforms from plugins are both active.
"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok, warning

GROUP = "vllm.platform_plugins"
OURS = "vllm_npu_platform"
PLATFORM = "npu"


def check(environment: Environment) -> Iterator[Result]:
    """Look for platforms of other packages that `VLLM_PLUGINS` lets through."""
    if environment.variables.get("VLLM_TARGET_DEVICE", "").lower() == "cpu":
        yield error(
            "VLLM_TARGET_DEVICE=cpu makes vLLM take its own CPU platform and ask no plugin.",
            "`unset VLLM_TARGET_DEVICE`; it is for building vLLM.",
        )
    points = [point for point in environment.plugins if point.group == GROUP]
    others = [point for point in points if point.module.partition(".")[0] != OURS]
    names = sorted({point.name for point in others})
    listed = ", ".join(names)
    allowed = [name for name in names if _allowed(name, environment)]
    if not others:
        yield ok("No other platform is installed.")
    elif PLATFORM in names:
        values = ", ".join(point.value for point in others if point.name == PLATFORM)
        yield error(
            f"Another package calls its platform '{PLATFORM}' too ({values}): vLLM loads one of "
            "them, whichever it finds last.",
            "Uninstall that package.",
        )
    elif not allowed:
        yield note(f"Other platforms are installed, and VLLM_PLUGINS keeps them out: {listed}.")
    elif _allowed(PLATFORM, environment):
        yield error(
            f"Other platforms are installed ({listed}), and vLLM refuses to start with two.",
            f"`export VLLM_PLUGINS={','.join(_without(environment, names))}`, "
            "or uninstall the others.",
        )
    else:
        yield warning(
            f"VLLM_PLUGINS lets other platforms through, and not ours: {', '.join(allowed)}.",
            f"`export VLLM_PLUGINS={','.join(_without(environment, names))}`",
        )


def _allowed(name: str, environment: Environment) -> bool:
    text = environment.variables.get("VLLM_PLUGINS")
    return text is None or name in text.split(",")


def _without(environment: Environment, others: list[str]) -> list[str]:
    """The list of all plugins but these, ours first, as the list must name every one to load."""
    text = environment.variables.get("VLLM_PLUGINS")
    names = text.split(",") if text else sorted({point.name for point in environment.plugins})
    return [PLATFORM, *(name for name in names if name not in (PLATFORM, *others))]
