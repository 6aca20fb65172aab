"""Is the device that `VLLM_NPU_DEVICE` names there?"""

from collections.abc import Iterator

from vllm_npu_runtime.device import AUTO, for_host
from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, note, ok, warning
from vllm_npu_runtime.doctor.sizes import in_words


def check(environment: Environment) -> Iterator[Result]:
    """Find it as the platform does."""
    found, given = environment.find(), environment.device_as_given
    if found.device is None:
        names = {device.name for report in found.drivers for device in report.devices}
        choice = f"export VLLM_NPU_DEVICE={for_host(names)}"
        problem = f"VLLM_NPU_DEVICE={given}: {found.device_error}"
        if environment.device == AUTO:
            yield warning(
                f"{problem} vLLM will not use this suite.",
                f"`{choice}` to run on the host, or install the driver of your NPU.",
            )
        else:
            yield error(
                problem,
                f"Choose one that `vllm-npu devices` lists, as in `{choice}`.",
            )
        return
    info = next(
        (d for report in found.drivers for d in report.devices if d.name == found.device), None
    )
    about = f": {info.description}, {in_words(info.free_memory)} free" if info else ""
    yield ok(f"VLLM_NPU_DEVICE={given} is {found.device}{about}")
    if info is not None and info.widens_everything and info.weight_formats:
        short = " and ".join(info.arithmetic)
        yield note(
            f"{found.device} computes models in {short} in float32: it has no 16-bit arithmetic.",
            "Models with packed weights are faster there: `vllm serve MODEL --quantization "
            "npu_w8a16`, or npu_w4a16 (vllm-npu-quantization).",
        )
