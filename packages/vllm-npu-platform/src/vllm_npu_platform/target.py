"""What this process runs on: the settings and the device, found once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vllm_npu_runtime.device import Device, find
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import Settings

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SECTION = "npu"
VARIABLE = "VLLM_NPU_DEVICE"


@dataclass(frozen=True)
class Target:
    """Settings and device."""

    settings: Settings
    device: Device

    @classmethod
    def of(cls, vllm_config: VllmConfig) -> Target:
        """From `--additional-config '{"npu": {…}}'` and the environment, which wins.

        Raises:
            ConfigurationError: a setting that can't be honoured, or no such device.
        """
        given = vllm_config.additional_config or {}
        # Other plugins may have sections here, so only what must be meant for us is refused.
        for key in given:
            if key in Settings.model_fields or (key != SECTION and key.lower() == SECTION):
                raise ConfigurationError(
                    f"additional-config: '{key}' is ignored there; settings belong under "
                    f"'{SECTION}', as in '{{\"npu\": {{\"strict\": true}}}}'."
                )
        section = given.get(SECTION, {})
        if not isinstance(section, dict):
            raise ConfigurationError(
                f"additional-config: '{SECTION}' is {section!r}; it must be an object of settings, "
                'as in \'{"npu": {"strict": true}}\'.'
            )
        settings = Settings.load(section)
        return cls(settings, _find(settings.device))

    @classmethod
    def of_environment(cls) -> Target:
        """The environment's device, for questions that come before there is a configuration."""
        return _of_variable(os.environ.get(VARIABLE))


@cache
def _of_variable(value: str | None) -> Target:
    # No more than the device: other variables may fit only what comes with the configuration.
    settings = Settings.load({}, {VARIABLE: value} if value is not None else {})
    return Target(settings, _find(settings.device))


def _find(spec: str) -> Device:
    try:
        return find(spec)
    except ConfigurationError as error:
        name = VARIABLE if VARIABLE in os.environ else "device"
        raise ConfigurationError(f"{name}={spec!r}: {error}") from error
