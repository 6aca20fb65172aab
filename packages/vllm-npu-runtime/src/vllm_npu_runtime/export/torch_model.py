"""An artifact's weights in the Hugging Face model that they came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm_npu_runtime.artifact.checking import ANEW, refusal
from vllm_npu_runtime.artifact.names import WEIGHTS
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.export.requirement import require_transformers
from vllm_npu_runtime.export.skeleton import config_of, skeleton
from vllm_npu_runtime.export.weight_formats import PACKED, Int4, Int8, Plain, WeightFormat

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.export.source import Source


def load_model(artifact: Artifact, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model in PyTorch, on the host, ready to run.

    Weights of the dtype are mapped from the file; others, as those in 8 or 4 bits, become
    numbers of the dtype.

    Args:
        artifact: whose weights it gets.
        dtype: of its weights and arithmetic; None: the artifact's.

    Raises:
        ConfigurationError: `transformers` is missing, or a weight is.
    """
    require_transformers()
    import torch
    from safetensors import safe_open

    dtype = dtype or getattr(torch, artifact.manifest.dtype)
    integers: WeightFormat = Int4() if artifact.manifest.weights == "int4" else Int8()
    with safe_open(artifact.weights_path, framework="pt") as file:
        held = set(file.keys())

        def read(name: str) -> torch.Tensor:
            packed = name + PACKED in held
            if name not in held and not packed:
                raise refusal(artifact.directory, [f"{WEIGHTS} has no tensor '{name}'. {ANEW}"])
            form = integers if packed else Plain(artifact.manifest.dtype)
            return form.unpack(name, file.get_tensor)

        return _filled(config_of(artifact.config()), read, dtype)


def load_source(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a checkpoint in PyTorch, as `load_model` gives that of an artifact."""
    with source.reading() as tensors:
        return _filled(config_of(source.family.config(source.config)), tensors.__getitem__, dtype)


def _filled(
    config: PretrainedConfig, read: Callable[[str], torch.Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """A model with weights.

    Raises:
        ConfigurationError: one is of another shape than the config says.
    """
    model = skeleton(config)
    state = {}
    for name, parameter in model.named_parameters():  # tied ones once
        state[name] = weight = read(name).to(dtype)
        if weight.shape != parameter.shape:
            raise ConfigurationError(
                f"'{name}' is {list(weight.shape)}; by config.json it is {list(parameter.shape)}. "
                f"{ANEW}"
            )
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.config.dtype = dtype
    return model.eval().requires_grad_(False)


def logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Float32 logits of final hidden states, `[..., hidden_size]` to `[..., vocab_size]`."""
    scaling = float(getattr(model.config, "logits_scaling", 1.0))
    found: torch.Tensor = model.lm_head(hidden.to(model.lm_head.weight.dtype)).float()
    return found if scaling == 1 else found * scaling
