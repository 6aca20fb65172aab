"""Does torchvision import? A CUDA build beside a CPU torch doesn't, and breaks transformers."""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, ok


def check(environment: Environment) -> Iterator[Result]:
    """Import it in a process of its own, if it is installed."""
    version = environment.version("torchvision")
    if version is None:
        yield ok("Not installed, and not needed.")
        return
    problem = environment.import_error("torchvision")
    if problem:
        yield error(
            f"torchvision {version} can't be imported ({problem}), and takes parts of "
            "transformers with it.",
            "`pip uninstall --yes torchvision`",
        )
    else:
        yield ok(version)
