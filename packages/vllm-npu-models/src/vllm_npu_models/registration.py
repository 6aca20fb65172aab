"""Everything that vLLM has to know of: models, their configuration hooks, loader, connector."""

from __future__ import annotations

from functools import cache

from vllm_npu_models.families import ARCHITECTURES
from vllm_npu_models.names import CONNECTOR, CONNECTOR_MODULE
from vllm_npu_runtime.artifact.names import LOAD_FORMAT


@cache
def register_all() -> None:
    """Register with vLLM, once in a process: it refuses some names a second time."""
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from vllm_npu_models.configuration import mobilint_configs
    from vllm_npu_models.configuration.hook import SessionModelConfig
    from vllm_npu_models.loader import SessionLoader

    for name in ARCHITECTURES:
        # By name, so that vLLM imports a class only to serve it.
        ModelRegistry.register_model(name, f"vllm_npu_models.models:{name}")
        # An internal table; docs/architecture.md lists what leans on vLLM's insides.
        MODELS_CONFIG_MAP[name] = SessionModelConfig
    KVConnectorFactory.register_connector(CONNECTOR, CONNECTOR_MODULE, CONNECTOR)
    register_model_loader(LOAD_FORMAT)(SessionLoader)
    mobilint_configs.register()
