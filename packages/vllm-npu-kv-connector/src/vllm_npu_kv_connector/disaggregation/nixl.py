"""vLLM's NIXL connector for caches in a driver's own layout.

vLLM's own can't be used there. It takes a layer's memory for one row per block, and OpenVINO keeps
all blocks' keys before all blocks' values; and its handshake compares attention backends by name,
which says nothing of the driver, its version and its KV precision. Either gives wrong tokens
without an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.nixl import (
    NixlBaseConnector,
    NixlPullConnector,
    NixlPullConnectorScheduler,
    NixlPullConnectorWorker,
)

from vllm_npu_kv_connector.disaggregation.checks import check_nixl
from vllm_npu_kv_connector.identity import identity_of
from vllm_npu_kv_connector.parts import split_caches, split_config

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


class NPUNixlConnector(NixlPullConnector):
    """The decode engine reads the prefill engine's blocks, between steps, by NIXL.

    Attributes:
        transfers_outside_graphs: tells the platform that no layer's hooks are needed.

    Raises:
        ConfigurationError: options that are unknown or can't be honoured, a line for each.
    """

    transfers_outside_graphs = True

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        check_nixl(vllm_config)
        # Not the parent's, which would start an agent of NIXL's for a worker of its own.
        NixlBaseConnector.__init__(self, vllm_config, role, kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            self.connector_scheduler = NixlPullConnectorScheduler(
                vllm_config, self.engine_id, kv_cache_config
            )
        else:
            self.connector_worker = NPUNixlWorker(vllm_config, self.engine_id, kv_cache_config)

    @classmethod
    def check(cls, vllm_config: VllmConfig) -> None:
        """Check the options, before anything is started.

        Raises:
            ConfigurationError: a line for each problem.
        """
        check_nixl(vllm_config)


class NPUNixlWorker(NixlPullConnectorWorker):
    """Transfers each part of a block for itself, and meets only engines with the same KV."""

    def __init__(
        self, vllm_config: VllmConfig, engine_id: str, kv_cache_config: KVCacheConfig
    ) -> None:
        self._parts = split_config(kv_cache_config, vllm_config)
        super().__init__(vllm_config, engine_id, self._parts.config)
        identity = identity_of(vllm_config, kv_cache_config, self.block_size)
        # Part of the hash that both ends compare before anything else.
        self.backend_name: str = f"{self.attn_backends[0].get_name()}:{identity}"

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Let other engines read the KV caches, part by part."""
        super().register_kv_caches(split_caches(kv_caches, self._parts))
