"""May models be downloaded?"""

from collections.abc import Iterator

from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, note, ok

TRUE = ("1", "on", "yes", "true")


def check(environment: Environment) -> Iterator[Result]:
    """As huggingface_hub reads it."""
    text = environment.variables.get("HF_HUB_OFFLINE", "")
    if text.lower() in TRUE:
        yield note(
            f"HF_HUB_OFFLINE={text}: models come from a directory or the local cache; nothing "
            "is downloaded."
        )
    else:
        yield ok("HF_HUB_OFFLINE is not set: models may be downloaded.")
