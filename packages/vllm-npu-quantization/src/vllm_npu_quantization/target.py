"""Whether vLLM runs on our platform, and on which device there."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from vllm_npu_runtime.device import find
from vllm_npu_runtime.settings import Settings

if TYPE_CHECKING:
    from vllm_npu_runtime.device import Device

PLATFORM = "vllm_npu_platform"
SECTION = "npu"


def on_our_platform() -> bool:
    """Whether vLLM's platform is that of `vllm-npu-platform`, known by name alone."""
    from vllm.platforms import current_platform

    return any(each.__module__.split(".")[0] == PLATFORM for each in type(current_platform).__mro__)


def device() -> Device:
    """The device of the engine that is being built: of its configuration, or of the environment.

    Raises:
        ConfigurationError: no such device.
    """
    from vllm.config import get_current_vllm_config_or_none

    config = get_current_vllm_config_or_none()
    given = (config.additional_config if config is not None else None) or {}
    section = given.get(SECTION, {}) if isinstance(given, dict) else {}
    return _find(Settings.load(section).device)


_find = cache(find)
