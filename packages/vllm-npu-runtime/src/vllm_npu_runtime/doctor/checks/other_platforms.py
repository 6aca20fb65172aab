"""Could another platform take vLLM from ours?

vLLM refuses to start when two platforms from plugins are both active.
"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok

GROUP = "vllm.platform_plugins"
OURS = "vllm_npu_platform"


def check(environment: Environment) -> Iterator[Result]:
    """Look for platforms of other packages that `VLLM_PLUGINS` lets through."""
    if environment.variables.get("VLLM_TARGET_DEVICE", "").lower() == "cpu":
        yield error(
            "VLLM_TARGET_DEVICE=cpu makes vLLM take its own CPU platform and ask no plugin.",
            "`unset VLLM_TARGET_DEVICE`; it is for building vLLM.",
        )
    points = [point for point in environment.plugins if point.group == GROUP]
    ours = [point for point in points if point.module.partition(".")[0] == OURS]
    others = sorted({point.name for point in points if point not in ours})
    if not others:
        yield ok("No other platform is installed.")
        return
    text = environment.variables.get("VLLM_PLUGINS")
    allowed = [name for name in others if text is None or name in text.split(",")]
    listed = ", ".join(others)
    if ours and allowed:
        yield error(
            f"Other platforms are installed ({listed}), and vLLM refuses two active ones.",
            f"`export VLLM_PLUGINS={','.join(_without(environment, others))}`, "
            "or uninstall the others.",
        )
    else:
        yield note(f"Other platforms are installed, but VLLM_PLUGINS keeps them out: {listed}.")


def _without(environment: Environment, others: list[str]) -> list[str]:
    """The list of all plugins but these, ours first, as the list must name every one to load."""
    text = environment.variables.get("VLLM_PLUGINS")
    names = text.split(",") if text else sorted({point.name for point in environment.plugins})
    return ["npu", *(name for name in names if name not in ("npu", *others))]
