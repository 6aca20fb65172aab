"""The options of driver ``mobilint``, given through `SessionOptions.driver`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_npu_runtime.errors import ConfigurationError


class MobilintOptions(BaseModel):
    """What a user may choose."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    every_token: bool = Field(
        False,
        description="Logits for every token of a prompt, from a model compiled to give those of "
        "the last one: its tokens are run one at a time, which is exact and slow. For prompt "
        "logprobs.",
    )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> MobilintOptions:
        """From what a user gave.

        Raises:
            ConfigurationError: unknown options and bad values, all at once.
        """
        known = list(cls.model_fields)
        problems = [
            str(ConfigurationError.unknown("option of driver 'mobilint'", name, known))
            for name in options
            if name not in known
        ]
        try:
            made = cls.model_validate({k: v for k, v in options.items() if k in known})
        except ValidationError as error:
            problems += [
                f"Option '{each['loc'][0]}' of driver 'mobilint' is {each['input']!r}: "
                f"{each['msg'][0].lower()}{each['msg'][1:]}."
                for each in error.errors()
            ]
        if problems:
            raise ConfigurationError.several(problems)
        return made
