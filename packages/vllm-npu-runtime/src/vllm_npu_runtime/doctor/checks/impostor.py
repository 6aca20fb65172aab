"""Is a stranger installed under our name?

`vllm-npu` and `npu-vllm` on PyPI are another project's, a fork that overwrites vLLM's own files.
"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, ok
from vllm_npu_runtime.doctor.supported import row_for


def is_ours(name: str, environment: Environment) -> bool:
    """Whether an installed distribution of that name is this suite's. Ours has no code, and
    depends on the runtime."""
    found = environment.installed[name]
    return name != "vllm-npu" or ("vllm-npu-runtime" in found.requires and not found.owns_vllm)


def check(environment: Environment) -> Iterator[Result]:
    """Look at both names."""
    strangers = [
        name
        for name in ("vllm-npu", "npu-vllm")
        if name in environment.installed and (name == "npu-vllm" or not is_ours(name, environment))
    ]
    if not strangers:
        yield ok("No stranger under our name.")
        return
    listed = ", ".join(f"{name} {environment.version(name)}" for name in strangers)
    damage = (
        " It has overwritten files of vLLM."
        if any(environment.installed[name].owns_vllm for name in strangers)
        else ""
    )
    yield error(
        f"{listed}: not of this suite, but another project's fork of vLLM.{damage}",
        f"`pip uninstall --yes {' '.join(strangers)} vllm`, then "
        f"`{row_for(None).install_vllm}`, then install this suite from a clone.",
    )
