"""The model runner: vLLM's V1 runner, with the forward pass in the graph executor."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.forward_context import get_forward_context
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from vllm_npu_platform import nonfinite
from vllm_npu_platform.drafting import PREFIX as DRAFT_PREFIX
from vllm_npu_platform.drafting import route_drafts
from vllm_npu_platform.graph.buffers import InputSpec
from vllm_npu_platform.graph.cache_key import compile_cache
from vllm_npu_platform.graph.compiler import Compiler
from vllm_npu_platform.graph.executor import GraphExecutor
from vllm_npu_platform.graph.groups import layer_groups
from vllm_npu_platform.graph.logits import NAME as LOGITS
from vllm_npu_platform.graph.logits import LogitsGraph, route_logits
from vllm_npu_platform.graph.shapes import graph_shapes
from vllm_npu_platform.graph.step_graph import AUXILIARY, HIDDEN
from vllm_npu_platform.kv_cache import kv_cache_specs
from vllm_npu_platform.nonfinite import NonFinite
from vllm_npu_platform.sampling.generators import GeneratorStates
from vllm_npu_platform.sampling.greedy import argmax
from vllm_npu_platform.sessions import in_session
from vllm_npu_platform.tables import widen
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheSpec

    from vllm_npu_platform.stats.counters import Counters
    from vllm_npu_platform.target import Target


class NPUModelRunner(CPUModelRunner):
    """Scheduling state, sampling, speculation and pooling are vLLM's own.

    vLLM's CPU runner is the base because our tensors live on the host as its do: it makes one
    buffer of each pair of host and device buffers. None of its compiled kernels is used.
    """

    def __init__(
        self, vllm_config: VllmConfig, device: torch.device, target: Target, counters: Counters
    ) -> None:
        super().__init__(vllm_config, device)
        self.target = target
        self.counters = counters
        self.executor: GraphExecutor | None = None
        self.draft_executor: GraphExecutor | None = None
        self.logits: list[LogitsGraph] = []
        self._nonfinite = NonFinite(counters)
        self._generators = GeneratorStates()
        self.sampler.greedy_sample = argmax

    def build_executors(self) -> list[GraphExecutor]:
        """Make the executors, once weights and KV caches are there."""
        if self.model_config.enforce_eager or in_session(self.vllm_config):
            return []
        self._widen_tables()
        cache = compile_cache(self.vllm_config, self.target, self.model)
        compiler = Compiler(self.vllm_config, self.target, cache, self.counters.start)
        self.executor = GraphExecutor(
            self.model,
            self._inputs(),
            layer_groups(self, self.model),
            graph_shapes(self.vllm_config, self.target),
            self.vllm_config,
            compiler,
            self.counters,
        )
        self.draft_executor = route_drafts(self, compiler)
        if not self.is_pooling_model:
            self.logits = self._route_logits(compiler)
        return [each for each in (self.executor, self.draft_executor) if each is not None]

    def _widen_tables(self) -> None:
        arithmetic = self.target.device.capabilities.computes_in(self.dtype)
        for model in (self.model, self.get_draft_model()):
            if model is not None:
                widen(model, arithmetic)

    def _route_logits(self, compiler: Compiler) -> list[LogitsGraph]:
        rows = self.scheduler_config.max_num_batched_tokens  # all of them, for prompt logprobs
        models = {LOGITS: (self.model, self.model_config)}
        if self.draft_executor is not None:
            draft = self.speculative_config.draft_model_config
            models[DRAFT_PREFIX + LOGITS] = (self.get_draft_model(), draft)
        routed = [
            route_logits(name, model, config.get_hidden_size(), rows, compiler, self.counters)
            for name, (model, config) in models.items()
        ]
        return [each for each in routed if each is not None]

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        """As vLLM has it, with the driver's own layout where it has one."""
        return kv_cache_specs(super().get_kv_cache_spec(), self.vllm_config, self.target)

    def _inputs(self) -> list[InputSpec]:
        inputs = [InputSpec("positions", torch.int64)]
        if self.enable_prompt_embeds:
            inputs.append(InputSpec("inputs_embeds", self.dtype, (self.inputs_embeds_size,)))
        else:
            inputs.append(InputSpec("input_ids", torch.int32))
        if "token_type_ids" in inspect.signature(self.model.forward).parameters:
            # Requests may leave them out; zeros mean the same.
            inputs.append(InputSpec("token_type_ids", torch.int32))
        return inputs

    def _model_forward(
        self,
        input_ids: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """The one seam: hand the step to the graph executor."""
        metadata = get_forward_context().attn_metadata
        if self.executor is None or not metadata:
            result = super()._model_forward(
                input_ids, positions, intermediate_tensors, inputs_embeds, **model_kwargs
            )
            if metadata and not in_session(self.vllm_config):
                self._look_at_hidden(result[0] if isinstance(result, tuple) else result)
            return result
        given = {
            "input_ids": input_ids,
            "positions": positions,
            "inputs_embeds": inputs_embeds,
            **model_kwargs,
        }
        inputs = {name: tensor for name, tensor in given.items() if tensor is not None}
        outputs = self.executor(inputs, metadata)
        self._look_at_hidden(outputs[HIDDEN])
        if self.use_aux_hidden_state_outputs:
            count = len(outputs) - 1
            return outputs[HIDDEN], [outputs[f"{AUXILIARY}{index}"] for index in range(count)]
        return outputs[HIDDEN]

    def _look_at_hidden(self, hidden: torch.Tensor) -> None:
        starts = self.query_start_loc.np[: self.input_batch.num_reqs + 1]

        def owners() -> np.ndarray:
            return np.repeat(np.arange(len(starts) - 1), np.diff(starts))

        rows = hidden[: int(starts[-1])]
        self._nonfinite.look(rows, owners, self.input_batch.req_ids, nonfinite.HIDDEN)

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """As vLLM's, after a look at the logits: a grammar and other processors write infinity."""
        state = self.execute_model_state
        if state is not None and state.logits is not None and not in_session(self.vllm_config):
            drafts = state.spec_decode_metadata

            def owners() -> np.ndarray:
                given = np.arange(self.input_batch.num_reqs)
                return given if drafts is None else given.repeat(np.add(drafts.num_draft_tokens, 1))

            requests = self.input_batch.req_ids
            self._nonfinite.look(state.logits, owners, requests, nonfinite.LOGITS)
        return super().sample_tokens(*args, **kwargs)

    def _pool(self, *args: Any, **kwargs: Any) -> Any:
        output = super()._pool(*args, **kwargs)
        output.num_nans_in_logits = self._nonfinite.take()
        return output

    def _sample(self, logits: torch.Tensor | None, spec_decode_metadata: Any) -> Any:
        discarded = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]
        self._generators.save(self.input_batch.generators, discarded)
        return super()._sample(logits, spec_decode_metadata)

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        with self._generators.rewound(self.input_batch.generators):
            counted, *rest = super()._bookkeeping_sync(*args, **kwargs)
        return ({**counted, **self._nonfinite.take()}, *rest)

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load weights anew; graphs use the new ones from the next step on.

        Raises:
            ConfigurationError: a connector may bring KV of the old ones back.
        """
        if (transfer := self.vllm_config.kv_transfer_config) is not None:
            raise ConfigurationError(
                f"Weights can't be reloaded with connector '{transfer.kv_connector}': KV of the "
                "old ones, which it keeps outside the device, would be taken for the new ones'. "
                "Start the engine anew with the new weights."
            )
        super().reload_weights(*args, **kwargs)
        self._widen_tables()
        for executor in (self.executor, self.draft_executor):
            if executor is not None:
                executor.rebind_weights()
        for logits in self.logits:
            logits.rebind_weights()

    def shutdown(self) -> None:
        """Free graphs before what they are bound to."""
        for executor in (self.executor, self.draft_executor):
            if executor is not None:
                executor.close()
        for logits in self.logits:
            logits.close()
        super().shutdown()
