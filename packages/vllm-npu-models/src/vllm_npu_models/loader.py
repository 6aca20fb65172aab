"""The loader: in place of weights, it opens a session."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from vllm_npu_models.configuration.loader_config import LoaderConfig
from vllm_npu_models.target import session_settings
from vllm_npu_runtime.sessions.base import Placement, Session, SessionOptions

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

    from vllm_npu_models.models import SessionForCausalLM

_logger = logging.getLogger("vllm.npu")


class SessionLoader(BaseModelLoader):
    """vLLM's `load_format` "npu_session"."""

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing beside what `load_model` does."""

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """There are none to load anew.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A model compiled ahead of time can't take other weights. Start the server anew with "
            "another artifact."
        )

    def load_model(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = ""
    ) -> nn.Module:
        """The model, with its session open."""
        model: SessionForCausalLM = self.create_model(vllm_config, model_config, prefix)
        session = open_session(vllm_config)
        model.slots.session = session
        _logger.info("Session: %s", session.describe())
        return model.eval()


def open_session(vllm_config: VllmConfig) -> Session:
    """Open the session that a configuration asks for.

    Raises:
        ConfigurationError: what the device or the artifact can't do.
    """
    from vllm_npu_models.configuration.hook import extra_config
    from vllm_npu_runtime.sessions.opening import open_session

    model = vllm_config.model_config
    directory = directory_of(model.model, model.revision)
    loader = LoaderConfig.of(extra_config(vllm_config))
    settings, kv_dtype = session_settings(vllm_config)
    options = SessionOptions(
        slots=vllm_config.scheduler_config.max_num_seqs,
        max_length=model.max_model_len,
        placement=_placement(loader),
        kv_cache_dtype=kv_dtype,
        timeout=settings.run_timeout,
        driver=settings.driver_options,
    )
    # "auto" is the device that the artifact was compiled for.
    return open_session(directory, settings.device, options)


def directory_of(model: str, revision: str | None) -> Path:
    """Where the model's files are: the directory that was named, or the hub's local copy of it,
    fetched if need be."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision))


def _placement(loader: LoaderConfig) -> Placement:
    """What the user says of it; the driver reads what the model's configuration says."""
    return Placement(
        dev_no=loader.dev_no,
        core_mode=loader.core_mode,
        target_cores=loader.target_cores,
        target_clusters=loader.target_clusters,
    )
