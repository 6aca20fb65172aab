"""Is vLLM there, in a version that the platform is written for?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok
from vllm_npu_runtime.doctor.supported import TABLE, row_for, within


def check(environment: Environment) -> Iterator[Result]:
    """Compare with the supported table. Without the platform, vLLM isn't needed."""
    version = environment.version("vllm")
    row = row_for(version)
    supported = ", ".join(str(each.vllm) for each in TABLE)
    if version is None:
        if "vllm-npu-platform" in environment.installed:
            yield error("Not installed, and the platform needs it.", f"`{row.install_vllm}`")
        else:
            yield note(
                "Not installed. Drivers work without it; serving needs it.",
                f"`{row.install_vllm}`, and then install vllm-npu-platform.",
            )
    elif within(version, row.vllm):
        yield ok(version)
    else:
        yield error(
            f"{version}: the suite supports {supported}.",
            f"`{row.install_vllm}`",
        )
