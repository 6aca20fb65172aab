"""The vLLM platform of vllm-npu.

vLLM calls the functions here while it looks for a platform, in every process. Importing this
package imports neither torch nor vllm.
"""

import logging
import os

__version__ = "0.1.0"

_PLATFORM = "vllm_npu_platform.platform.NPUPlatform"
_logger = logging.getLogger("vllm.npu")


def register() -> str | None:
    """Entry point `npu` of ``vllm.platform_plugins``.

    Returns:
        The platform class if there is a device to run on, else None. Nothing escapes: vLLM
        would log an exception for debugging only, and the user would never see it.
    """
    import vllm_npu_platform.stats.beginning  # noqa: F401  (looks at the clock)
    from vllm_npu_platform.processes import start_method
    from vllm_npu_runtime.device import AUTO, find
    from vllm_npu_runtime.errors import ConfigurationError

    wanted = os.environ.get("VLLM_NPU_DEVICE", AUTO)
    try:
        find(wanted)
    except ConfigurationError as error:
        if wanted != AUTO:
            # The user asked for a device by name. The platform turns this into an error of its
            # own; if it stayed away, vLLM would go on to another platform, or complain that
            # there is none.
            return _PLATFORM
        _say_once(f"vllm-npu stays inactive: {error}")
        return None
    start_method.prepare()
    return _PLATFORM


def explain_filter() -> None:
    """Entry point `npu_stats` of ``vllm.platform_plugins``: never a platform.

    `VLLM_PLUGINS` filters by name across all groups. A list that keeps `npu_stats` and leaves
    out `npu` loads our statistics without our platform, which is hardly ever what was meant:
    this function is then the only one of ours that vLLM calls early enough to say so.
    """
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "npu" not in allowed.split(","):
        _say_once(
            f"vllm-npu stays inactive: VLLM_PLUGINS='{allowed}' leaves out 'npu', the platform. "
            "Add 'npu' to it, or unset it."
        )


def _say_once(line: str) -> None:
    # vLLM asks twice per process, and again in every process that it starts.
    if os.environ.get("_VLLM_NPU_SAID") != line:
        os.environ["_VLLM_NPU_SAID"] = line
        _logger.warning(line)
