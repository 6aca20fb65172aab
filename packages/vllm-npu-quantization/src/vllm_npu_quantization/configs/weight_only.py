"""What the configs of all checkpoint formats have in common here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from vllm_npu_quantization.checkpoint.pending import Pending
from vllm_npu_quantization.configs.common import ACTIVATIONS


class WeightOnlyConfig:
    """Comes before vLLM's config of a format among the bases.

    Attributes:
        check: finds out what is wrong with a checkpoint's files.
        pending: that check, where the files weren't there yet.
    """

    check: ClassVar[Callable[..., Any]]
    pending: Pending | None = None

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """As the operator takes them."""
        return ACTIVATIONS

    @classmethod
    def get_min_capability(cls) -> int:
        """There is no CUDA here."""
        return -1

    def maybe_update_config(
        self, model_name: str, hf_config: Any = None, revision: str | None = None
    ) -> None:
        """Check the checkpoint's files; then vLLM looks at which layers are quantized.

        Raises:
            ConfigurationError: all that is wrong with them, at once.
        """
        self.pending = Pending(type(self).check, self, model_name, revision)
        super().maybe_update_config(model_name, hf_config, revision)  # type: ignore[misc]

    def finish_check(self) -> None:
        """Check files that were fetched only with the weights.

        Raises:
            ConfigurationError: they are wrong.
        """
        if self.pending is not None:
            self.pending.finish()
