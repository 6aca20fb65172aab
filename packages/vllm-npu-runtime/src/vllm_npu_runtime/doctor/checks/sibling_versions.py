"""Do all packages of the suite carry the same version?"""

from collections.abc import Iterator

from vllm_npu_runtime import __version__
from vllm_npu_runtime.doctor.checks.impostor import is_ours
from vllm_npu_runtime.doctor.environment import SIBLINGS, Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok, warning


def check(environment: Environment) -> Iterator[Result]:
    """Compare all siblings with the runtime, which is this package."""
    versions = {
        name: environment.installed[name].version
        for name in SIBLINGS
        if name in environment.installed and is_ours(name, environment)
    }
    if "vllm-npu-runtime" not in versions:
        yield warning(
            f"vllm-npu-runtime {__version__} is imported from a directory; it isn't installed, "
            "so vLLM and this command may not find its parts.",
            "`pip install -e packages/vllm-npu-runtime` in a clone.",
        )
    wanted = versions.get("vllm-npu-runtime", __version__)
    others = {name: version for name, version in versions.items() if version != wanted}
    if others:
        listed = ", ".join(f"{name} {version}" for name, version in others.items())
        yield error(
            f"vllm-npu-runtime is {wanted}, but {listed}: all must have the same version.",
            f"`pip install {' '.join(f'{name}=={wanted}' for name in others)}`, "
            "or install all from the same clone.",
        )
    elif versions:
        yield ok(f"{', '.join(versions)} {wanted}")
    if "vllm-npu-platform" not in versions:
        yield note(
            "vllm-npu-platform isn't installed, so vLLM can't use the drivers.",
            f"To serve models: `pip install vllm-npu-platform=={wanted}`, or from a clone.",
        )
