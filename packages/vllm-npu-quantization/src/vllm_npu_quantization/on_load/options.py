"""What a user may choose, in `--additional-config '{"npu_quantization": {…}}'`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_npu_runtime.errors import ConfigurationError

SECTION = "npu_quantization"


class Options(BaseModel):
    """Which layers are quantized; linear layers all are, unless skipped."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lm_head: bool = Field(False, description="Whether the LM head is quantized too.")
    skip: tuple[str, ...] = Field(
        (), description="Regular expressions; layers whose name has a match stay as they are."
    )

    @classmethod
    def of(cls, given: object) -> Options:
        """From the section.

        Raises:
            ConfigurationError: unknown or bad entries, all at once.
        """
        if not isinstance(given, Mapping):
            raise ConfigurationError(f"additional-config: '{SECTION}' is {given!r}, no object.")
        entries: dict[str, Any] = dict(given)
        if isinstance(entries.get("skip"), list):
            entries["skip"] = tuple(entries["skip"])
        try:
            made = cls.model_validate(entries)
        except ValidationError as error:
            raise ConfigurationError.several(
                [
                    f"additional-config: '{SECTION}.{'.'.join(map(str, each['loc']))}' is "
                    f"{each['input']!r}: {each['msg']}. Known: {', '.join(cls.model_fields)}."
                    for each in error.errors()
                ]
            ) from None
        for pattern in made.skip:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigurationError(
                    f"additional-config: '{SECTION}.skip' has {pattern!r}, which is no regular "
                    f"expression: {error}."
                ) from None
        return made

    def skips(self, name: str) -> bool:
        """Whether a layer stays as it is."""
        return any(re.search(pattern, name) for pattern in self.skip)
