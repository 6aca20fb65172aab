"""Checks distributions installed from wheels: `python -I smoke.py vllm-npu-runtime ...`."""

import os
import sys
from importlib.metadata import distribution
from pathlib import Path

GROUPS = ("vllm_npu.", "vllm.")


def check_entry_points(name: str) -> None:
    """Loads each entry point of ours, and refuses one that comes from outside the environment."""
    found = distribution(name)
    print(f"{name} {found.version}")
    for point in found.entry_points:
        if point.group.startswith(GROUPS) or point.group == "console_scripts":
            point.load()
            origin = Path(str(sys.modules[point.module].__file__)).resolve()
            if not origin.is_relative_to(Path(sys.prefix).resolve()):
                sys.exit(f"error: {point.name} of {name} was loaded from {origin}")
            print(f"  {point.group}: {point.name} = {point.value}")


def check_platform() -> None:
    """vLLM takes our platform when a device is named."""
    from vllm.platforms import current_platform

    module = type(current_platform).__module__
    if not module.startswith("vllm_npu_platform"):
        sys.exit(f"error: vLLM chose the platform of {module}")
    print(f"  vLLM runs on {current_platform.get_device_name()}")


if __name__ == "__main__":
    os.environ["VLLM_NPU_DEVICE"] = "reference"
    for package in sys.argv[1:]:
        check_entry_points(package)
    if "vllm-npu-platform" in sys.argv[1:]:
        check_platform()
