"""What is particular about the models that Mobilint releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.config import VllmConfig

MAKER = "Mobilint"
EVERY_TOKEN = "every_token"
"""The driver's option for logits of every token."""


def is_mobilint(config: Any) -> bool:
    """Whether a Hugging Face configuration is of one."""
    return any(str(name).startswith(MAKER) for name in getattr(config, "architectures", None) or ())


def last_token_only(vllm_config: VllmConfig, driver_options: Any) -> bool:
    """Whether a step gives logits of its last token only, unless the model says otherwise."""
    config = vllm_config.model_config.hf_text_config
    return is_mobilint(config) and not driver_options.get(EVERY_TOKEN, False)


def speculation_problems(vllm_config: VllmConfig, driver_options: Any) -> Iterator[str]:
    """A line if drafts would have to be checked without their logits."""
    speculation = vllm_config.speculative_config
    if speculation is not None and last_token_only(vllm_config, driver_options):
        yield (
            f"--speculative-config method '{speculation.method}': drafts are checked by logits of "
            "every token, and this model gives those of a step's last. Leave it out."
        )
