"""vLLM's questions about a model's class, answered in a fork instead of a new interpreter.

vLLM imports a class's module in another process, once for each version of the module, and keeps
what it found under ``$VLLM_CACHE_ROOT/modelinfos``. The process imports all of vLLM for that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.model_executor.models import registry

from vllm_npu_platform.processes.quiet import obstacles
from vllm_npu_runtime.asking import in_child
from vllm_npu_runtime.errors import ConfigurationError

_logger = logging.getLogger("vllm.npu")


def use() -> None:
    """Have the models in vLLM's registry inspected this way; may be called again."""
    models = registry.ModelRegistry.models
    for name, model in models.items():
        if type(model) is registry._LazyRegisteredModel:
            models[name] = InspectedInFork(model.module_name, model.class_name)


class InspectedInFork(registry._LazyRegisteredModel):
    """A model that is known by its name, and inspected in a fork of this process."""

    def inspect_model_cls(self) -> Any:
        """As vLLM does it; in a new process where this one can't be forked."""
        if reasons := obstacles():
            _logger.debug("%s is inspected in a new process: %s", self.class_name, reasons)
            return super().inspect_model_cls()
        try:
            return in_child(f"Inspecting {self.class_name}", self._inspect_here)
        except ConfigurationError as error:
            _logger.debug("%s is inspected in a new process: %s", self.class_name, error)
            return super().inspect_model_cls()

    def _inspect_here(self) -> Any:
        """In the child, which may import what it likes."""
        registry._run_in_subprocess = _run
        return super().inspect_model_cls()

    def _load_modelinfo_from_cache(self, module_hash: str) -> Any:
        """As vLLM does it, and a word on what is there and can't be used."""
        found = super()._load_modelinfo_from_cache(module_hash)
        path = self._get_cache_dir() / self._get_cache_filename()
        if found is not None and found.architecture != self.class_name:
            found = None
        if found is None and path.exists():
            _logger.warning(
                "%s: %s, so %s is inspected anew.",
                path,
                _problem(path, module_hash),
                self.class_name,
            )
        return found


def _run(function: Callable[[], Any]) -> Any:
    return function()


def _problem(path: Path, module_hash: str) -> str:
    """Why a kept inspection isn't used."""
    try:
        kept = json.loads(path.read_text())
        if kept["hash"] != module_hash:
            return "it is of another version of the model's code"
    except (OSError, ValueError, KeyError, TypeError):
        return "it is damaged"
    return "it was written by another vLLM, or is damaged"
