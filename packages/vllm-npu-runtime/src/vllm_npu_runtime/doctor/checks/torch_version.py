"""Is torch there, in the version that vLLM is built for? Which build is it?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok
from vllm_npu_runtime.doctor.supported import row_for, within


def check(environment: Environment) -> Iterator[Result]:
    """Compare with the row of the installed vLLM."""
    found = environment.installed.get("torch")
    row = row_for(environment.version("vllm"))
    if found is None:
        yield error("Not installed.", f"`{row.install_torch}`")
        return
    if within(found.version, row.torch):
        yield ok(found.version)
    else:
        yield error(
            f"{found.version}: vLLM {row.vllm} goes with torch {row.torch}.",
            f"`{row.install_torch}`",
        )
    # The local part of the version names the build, but wheels on PyPI leave it out.
    if "+cu" in found.version or any(name.startswith("nvidia-") for name in found.requires):
        yield note(
            "This torch is built for CUDA. It works on the host too, but is several GB larger.",
            f"To have the smaller build: `{row.install_torch}`",
        )
