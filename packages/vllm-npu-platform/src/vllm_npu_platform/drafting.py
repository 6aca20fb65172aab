"""Draft models: their forward passes run in graphs, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.forward_context import get_forward_context

from vllm_npu_platform.graph.buffers import InputSpec
from vllm_npu_platform.graph.executor import GraphExecutor
from vllm_npu_platform.graph.groups import layer_groups
from vllm_npu_platform.graph.shapes import graph_shapes
from vllm_npu_platform.graph.step_graph import HIDDEN

if TYPE_CHECKING:
    from vllm_npu_platform.graph.compiler import Compiler
    from vllm_npu_platform.runner import NPUModelRunner

PREFIX = "draft:"


class GraphedDraftModel:
    """Stands where vLLM's proposer keeps its draft model, and looks like it otherwise."""

    def __init__(self, model: torch.nn.Module, executor: GraphExecutor) -> None:
        self._model = model
        self._executor = executor

    def __call__(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states `[tokens, hidden]` of one drafting step."""
        metadata = get_forward_context().attn_metadata
        if not metadata:
            result: torch.Tensor = self._model(
                input_ids=input_ids, positions=positions, inputs_embeds=inputs_embeds
            )
            return result
        return self._executor({"input_ids": input_ids, "positions": positions}, metadata)[HIDDEN]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def route_drafts(runner: NPUModelRunner, compiler: Compiler) -> GraphExecutor | None:
    """Put a draft model behind an executor of its own; None if there is no draft model."""
    speculation = runner.speculative_config
    if speculation is None or not speculation.uses_draft_model():
        return None
    drafter = runner.drafter
    executor = GraphExecutor(
        drafter.model,
        [InputSpec("positions", torch.int64), InputSpec("input_ids", torch.int32)],
        layer_groups(runner, drafter.model),
        graph_shapes(runner.vllm_config, runner.target),
        runner.vllm_config,
        compiler,
        runner.counters,
        PREFIX,
    )
    drafter.model = GraphedDraftModel(drafter.model, executor)
    return executor
