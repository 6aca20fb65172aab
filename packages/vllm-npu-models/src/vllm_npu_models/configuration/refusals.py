"""Which settings of vLLM's a session can't honour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_npu_models.names import CONNECTOR, SCHEDULER
from vllm_npu_runtime.artifact.names import LOAD_FORMAT

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_LOAD_FORMATS = ("auto", "hf", "safetensors", LOAD_FORMAT)
_SPECULATION = ("ngram",)


def problems_of(config: VllmConfig) -> list[str]:
    """A line for each setting, with its value and what to do."""
    return [*_parallelism(config), *_loading(config), *_features(config)]


def _parallelism(config: VllmConfig) -> Iterator[str]:
    parallel = config.parallel_config
    sizes = {
        "tensor-parallel-size": parallel.tensor_parallel_size,
        "pipeline-parallel-size": parallel.pipeline_parallel_size,
        "data-parallel-size": parallel.data_parallel_size,
    }
    for name, size in sizes.items():
        if size > 1:
            yield (
                f"--{name} {size}: a session is one model on its own devices. Use 1; several "
                "boards are named by --model-loader-extra-config '{\"dev_no\": [0, 1]}'."
            )


def _loading(config: VllmConfig) -> Iterator[str]:
    load = config.load_config
    if load.load_format not in _LOAD_FORMATS:
        yield (
            f"--load-format {load.load_format}: a model compiled ahead of time has no checkpoint "
            "to load. Leave it out."
        )
    model = config.model_config
    if model.quantization is not None:
        yield (
            f"--quantization {model.quantization}: the weights' format was chosen when the model "
            "was compiled. Leave it out, or use `vllm-npu compile --weights`."
        )
    if model.enable_sleep_mode:
        yield "--enable-sleep-mode: a session can't give its memory back. Leave it out."


def _features(config: VllmConfig) -> Iterator[str]:
    if config.lora_config is not None:
        yield (
            "--enable-lora: adapters can't be added to a compiled model. Merge the adapter into "
            "the checkpoint and compile that."
        )
    speculation = config.speculative_config
    if speculation is not None and speculation.method not in _SPECULATION:
        yield (
            f"--speculative-config method '{speculation.method}': with a session only "
            f"{', '.join(_SPECULATION)} is supported."
        )
    transfer = config.kv_transfer_config
    if transfer is not None and transfer.kv_connector not in (None, CONNECTOR):
        yield (
            f"--kv-transfer-config: connector '{transfer.kv_connector}' moves blocks of a KV cache "
            "of vLLM's, and a session's KV isn't in one. Leave it out; prefixes are reused "
            "without it."
        )
    scheduler = config.scheduler_config.scheduler_cls
    if scheduler not in (None, SCHEDULER):
        yield (
            f"--scheduler-cls {scheduler}: a session's requests need a scheduler that can fail one "
            "of them alone. Leave it out."
        )
    if config.cache_config.kv_offloading_size is not None:
        yield (
            f"--kv-offloading-size {config.cache_config.kv_offloading_size}: a session's KV isn't "
            "in blocks of vLLM's. Leave it out, and set 'prefix_cache_max_host_mib' in "
            "--model-loader-extra-config."
        )
