"""The platform that vLLM asks about the device, and that checks a configuration against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.platforms.interface import Platform, PlatformEnum

from vllm_npu_platform.checks.defaults import quiet_about_own_scheduler
from vllm_npu_platform.host import environment
from vllm_npu_platform.host.cuda import stand_in_for_cuda
from vllm_npu_platform.sessions import in_session
from vllm_npu_platform.stats import beginning
from vllm_npu_platform.target import Target

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.inputs import EngineInput
    from vllm.pooling_params import PoolingParams
    from vllm.sampling_params import SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.selector import AttentionSelectorConfig
    from vllm.v1.kv_cache_interface import AttentionSpec

# vLLM's code names CUDA without asking whether it is there, engine-core shutdown included.
stand_in_for_cuda()
quiet_about_own_scheduler()


class NPUPlatform(Platform):
    """One NPU, or the host in its stead, behind a driver of the runtime.

    Tensors that vLLM sees live on the host: `device_type` is torch's "cpu". What runs on the
    device are the programs of `vllm_npu_platform.graph`.
    """

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    simple_compile_backend = "eager"

    @property
    def supported_dtypes(self) -> list[torch.dtype]:
        """The device's dtypes, best first."""
        return list(Target.of_environment().device.capabilities.dtypes)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """The device's marketing name."""
        return Target.of_environment().device.info.description

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Bytes of the device's memory."""
        return Target.of_environment().device.info.total_memory

    @classmethod
    def get_current_memory_usage(cls, device: Any = None) -> float:
        """Bytes of the device's memory in use."""
        info = Target.of_environment().device.info
        return float(info.total_memory - info.free_memory)

    @classmethod
    def get_nixl_supported_devices(cls) -> dict[str, tuple[str, ...]]:
        """NIXL moves the KV cache from where it is, which is host memory."""
        return {cls.device_type: ("cpu",)}

    @classmethod
    def get_nixl_memory_type(cls) -> str:
        """NIXL's name of host memory."""
        return "DRAM"

    @classmethod
    def kv_block_parts(cls, vllm_config: VllmConfig, spec: AttentionSpec) -> tuple[int, ...]:
        """Bytes of each part of a layer's block, for connectors: a layer's memory holds the first
        part of all blocks, then the second of all, and so on. vLLM doesn't ask."""
        from vllm_npu_platform.kv_cache import block_parts

        return block_parts(spec, vllm_config, Target.of(vllm_config))

    @classmethod
    def discover_numa_topology(cls) -> list[list[int]]:
        """No cores: on a host platform vLLM's NIXL connector pins the worker to what is listed."""
        return []

    @classmethod
    def inference_mode(cls) -> Any:
        """Warm-up and real steps must agree on it, or every graph would be traced twice."""
        return torch.inference_mode()

    @classmethod
    def set_device(cls, device: torch.device) -> None:
        """Nothing to choose: a driver serves one device."""

    @classmethod
    def manual_seed_all(cls, seed: int) -> None:
        """Nothing to seed beyond torch's own generator: sampling is on the host."""

    @classmethod
    def is_pin_memory_available(cls) -> bool:
        """No: there is no accelerator of torch's to pin memory for."""
        return False

    @classmethod
    def support_hybrid_kv_cache(cls) -> bool:
        """Yes: full and sliding-window layers may have block tables of their own."""
        return True

    @classmethod
    def check_runner_kv_caches_multi_layer(cls) -> None:
        """Layers of one index, as a model's and its draft's, don't collide: graphs know caches by
        the layers' names."""

    @classmethod
    def opaque_attention_op(cls) -> bool:
        """No: attention is traced, so that its operands become inputs of the graph."""
        return False

    @classmethod
    def import_kernels(cls) -> None:
        """vLLM's compiled kernels aren't needed, and an empty build has none."""

    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        """Host versions of the Triton kernels that the V1 runner launches."""
        from vllm_npu_platform import kernels

        kernels.register()

    @classmethod
    def check_if_supports_dtype(cls, dtype: torch.dtype) -> None:
        """Checked with everything else, in `check_and_update_config`."""

    @classmethod
    def get_attn_backend_cls(
        cls,
        selected_backend: Any,
        attn_selector_config: AttentionSelectorConfig,
        num_heads: int | None = None,
    ) -> str:
        """Our attention backend, once the layer is known to be one that it computes."""
        from vllm_npu_platform.checks.attention import check_attention

        check_attention(selected_backend, attn_selector_config)
        return "vllm_npu_platform.attention.backend.NPUAttentionBackend"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """Collectives over host tensors."""
        return "vllm_npu_platform.communicator.NPUCommunicator"

    @classmethod
    def pre_register_and_update(cls, parser: FlexibleArgumentParser | None = None) -> None:
        """Fail early, and by name, on a device or setting that doesn't exist."""
        from vllm_npu_platform.processes import inspection

        Target.of_environment()
        inspection.use()

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: VllmConfig) -> None:
        """Leave compilation to the graph executor; see `vllm_npu_platform.graph`.

        Raises:
            ConfigurationError: the user chose CUDA graphs, which vLLM would take back silently.
        """
        from vllm_npu_platform.checks.config import check_choices
        from vllm_npu_platform.checks.defaults import apply_defaults

        beginning.configuring()
        check_choices(vllm_config)
        environment.use_first_runner()
        apply_defaults(vllm_config)

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        """Refuse what can't be honoured, all at once, and name our worker.

        Raises:
            ConfigurationError: every problem with its setting, value and fix.
        """
        from vllm_npu_platform.checks.config import check_config
        from vllm_npu_platform.checks.defaults import use_own_scheduler
        from vllm_npu_platform.processes import lifetime, start_method
        from vllm_npu_platform.stats import board

        check_config(vllm_config, Target.of(vllm_config))
        start_method.use(vllm_config.parallel_config.numa_bind)
        lifetime.stop_at_sigterm()
        board.take_away_at_end(vllm_config)
        environment.let_waiting_threads_sleep()
        if not in_session(vllm_config):
            use_own_scheduler(vllm_config)
        if vllm_config.parallel_config.worker_cls == "auto":
            vllm_config.parallel_config.worker_cls = "vllm_npu_platform.worker.NPUWorker"

    @classmethod
    def update_block_size_for_backend(cls, vllm_config: VllmConfig) -> None:
        """The device's block size, unless the user chose one, which is checked elsewhere."""
        super().update_block_size_for_backend(vllm_config)
        if in_session(vllm_config):
            return
        sizes = Target.of(vllm_config).device.capabilities.block_sizes
        cache = vllm_config.cache_config
        if sizes and not cache.user_specified_block_size and cache.block_size not in sizes:
            cache.block_size = sizes[0]

    @classmethod
    def validate_request(
        cls, processed_inputs: EngineInput, params: SamplingParams | PoolingParams
    ) -> None:
        """Refuse, with HTTP 400, what a request asks for and can't have."""
        from vllm_npu_platform.checks.request import check_request

        check_request(processed_inputs, params)

    @classmethod
    def validate_environ(cls, hard_fail: bool) -> None:
        """Make our variables known to vLLM first, so that it doesn't warn of them."""
        environment.register_environment_variables()
        super().validate_environ(hard_fail)
