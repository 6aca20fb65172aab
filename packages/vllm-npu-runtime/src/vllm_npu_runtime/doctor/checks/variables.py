"""Are the `VLLM_NPU_*` variables settings that exist, with values that they take?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.redaction import without_secrets
from vllm_npu_runtime.doctor.result import Result, error, ok
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import Settings, environment_variables


def check(environment: Environment) -> Iterator[Result]:
    """Load them as the platform does."""
    try:
        Settings.load(environ=environment.variables)
    except ConfigurationError as problem:
        yield error(str(problem), "Mend or unset these; docs/configuration.md lists all.")
        return
    known = environment_variables()
    given = [
        f"{name}={without_secrets(name, text)}"
        for name, text in sorted(environment.variables.items())
        if name in known
    ]
    yield ok(", ".join(given) or "All at their defaults.")
