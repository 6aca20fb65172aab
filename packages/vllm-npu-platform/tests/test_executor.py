"""The graph executor, around a small model with vLLM's attention layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.attention import Attention

from vllm_npu_platform.attention.backend import NPUAttentionBackend
from vllm_npu_platform.attention.metadata import PagedMetadata
from vllm_npu_platform.graph.buffers import InputSpec, LayerGroup
from vllm_npu_platform.graph.compiler import Compiler
from vllm_npu_platform.graph.executor import GraphExecutor
from vllm_npu_platform.graph.plan import Batch
from vllm_npu_platform.graph.shapes import graph_shapes
from vllm_npu_platform.graph.step_graph import AUXILIARY, HIDDEN
from vllm_npu_platform.graph.warm_up import warm_up
from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.counters import Counters
from vllm_npu_platform.target import Target
from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.errors import BadShapeError, NPUError
from vllm_npu_runtime.settings import BucketSettings

HEADS, KV_HEADS, SIZE, VOCABULARY = 4, 2, 8, 32
HIDDEN_SIZE = HEADS * SIZE
BLOCK, BLOCKS, WIDTH = 4, 64, 16
LAYERS = ("layers.0", "layers.1")
FEW = BucketSettings(strategy="exponential", step=4, limit=2)

MakeExecutor = Callable[..., GraphExecutor]
Rows = list[torch.Tensor]


class Layer(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.project = nn.Linear(HIDDEN_SIZE, (HEADS + 2 * KV_HEADS) * SIZE)
        self.attention = Attention(
            HEADS, SIZE, SIZE**-0.5, KV_HEADS, prefix=name, attn_backend=NPUAttentionBackend
        )

    def split(self, hidden: torch.Tensor) -> Sequence[torch.Tensor]:
        sizes = [HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE]
        projected: torch.Tensor = self.project(hidden)
        return projected.split(sizes, -1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.attention(*self.split(hidden))

    def plain(self, hidden: torch.Tensor) -> torch.Tensor:
        """One request from its beginning, without a cache."""
        query, key, value = (
            each.view(len(hidden), -1, SIZE).transpose(0, 1) for each in self.split(hidden)
        )
        key, value = (each.repeat_interleave(HEADS // KV_HEADS, 0) for each in (key, value))
        out = scaled_dot_product_attention(query, key, value, is_causal=True)
        return hidden + out.transpose(0, 1).reshape(len(hidden), -1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, HIDDEN_SIZE)
        self.layers = nn.ModuleList(Layer(name) for name in LAYERS)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: None = None,
    ) -> torch.Tensor:
        hidden = self.embedding(input_ids) + positions.unsqueeze(1) / 8
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden

    @torch.inference_mode()
    def plain(self, tokens: list[int]) -> torch.Tensor:
        """What the whole request gives, computed without vLLM's attention."""
        hidden = self.embedding(torch.tensor(tokens))
        hidden = hidden + torch.arange(len(tokens)).unsqueeze(1) / 8
        for layer in self.layers:
            assert isinstance(layer, Layer)
            hidden = layer.plain(hidden)
        return hidden


@pytest.fixture(scope="module")
def config() -> VllmConfig:
    config = VllmConfig()
    config.scheduler_config.max_num_batched_tokens = 32
    config.scheduler_config.max_num_seqs = 4
    return config


@pytest.fixture
def model(config: VllmConfig) -> Iterator[Model]:
    torch.manual_seed(0)
    layers = config.compilation_config.static_forward_context
    with set_current_vllm_config(config):
        model = Model().eval()
    for name in LAYERS:
        layers[name].kv_cache = torch.zeros(BLOCKS, KV_HEADS, BLOCK, 2 * SIZE)
    yield model
    layers.clear()


@pytest.fixture
def make_executor(
    config: VllmConfig, model: Model, make_config: Any, make_target: Callable[..., Target]
) -> MakeExecutor:
    def make(
        contract: str = "paged",
        strict: bool = False,
        groups: Sequence[LayerGroup] = (LayerGroup(LAYERS, BLOCK, WIDTH),),
    ) -> GraphExecutor:
        buckets = dict.fromkeys(
            ("token_bucket", "decode_batch_bucket", "prefill_chunk_bucket"), FEW
        )
        target = make_target(kv_contract=contract, strict=strict, prefill_chunk_size=8, **buckets)
        return GraphExecutor(
            model,
            [InputSpec("positions", torch.int64), InputSpec("input_ids", torch.int32)],
            groups,
            graph_shapes(make_config(tokens=32, requests=4), target),
            config,
            Compiler(config, target),
            Counters(),
        )

    return make


def step(executor: GraphExecutor, batch: Batch, tokens: list[list[int]]) -> Rows:
    """Run a step; the rows of each request."""
    metadata = {}
    share = len(LAYERS) // len(batch.block_tables)  # Layers to a group.
    tables, mappings = batch.block_tables * share, batch.slot_mappings * share
    for layer, table, slots in zip(LAYERS, tables, mappings, strict=True):
        wide = torch.zeros(batch.num_requests, WIDTH, dtype=torch.int32)
        wide[:, : table.shape[1]] = torch.from_numpy(table)
        metadata[layer] = PagedMetadata(
            wide,
            torch.from_numpy(slots),
            torch.from_numpy(batch.query_start_loc),
            torch.from_numpy(batch.seq_lens),
        )
    lengths = batch.query_start_loc[1:] - batch.query_start_loc[:-1]
    contexts = batch.seq_lens - lengths
    inputs = {
        "input_ids": torch.tensor([token for each in tokens for token in each]).int(),
        "positions": torch.cat(
            [torch.arange(a, b) for a, b in zip(contexts, batch.seq_lens, strict=True)]
        ),
    }
    with torch.inference_mode():
        rows = executor(inputs, metadata)[HIDDEN]
    assert rows.shape == (batch.num_tokens, HIDDEN_SIZE)
    return list(rows.split(lengths.tolist()))


def some_tokens(count: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count,), generator=generator).tolist()


def close(rows: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(rows, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("contract", ["paged", "gather"])
def test_rows_are_those_of_the_model_without_a_cache(
    contract: str, model: Model, make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    """Two steps: prompts, one of them longer than any chunk; then a decode beside a chunk."""
    executor = make_executor(contract)
    prompts = [some_tokens(3), some_tokens(19, seed=2)]
    tables = [[5, 6], [9, 3, 8, 4, 7, 10, 11]]
    rows = step(executor, make_batch([(0, 3), (0, 19)], BLOCK, tables), prompts)
    for got, prompt in zip(rows, prompts, strict=True):
        close(got, model.plain(prompt))

    more = [[7], some_tokens(5, seed=3)]
    rows = step(executor, make_batch([(3, 1), (19, 5)], BLOCK, tables), more)
    for got, prompt, new in zip(rows, prompts, more, strict=True):
        close(got, model.plain(prompt + new)[len(prompt) :])


def test_both_contracts_give_equal_rows_and_caches(
    config: VllmConfig, model: Model, make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    layers = config.compilation_config.static_forward_context
    results = []
    for contract in KVContract:
        for name in LAYERS:
            layers[name].kv_cache.zero_()
        prompts = [some_tokens(11), some_tokens(1), some_tokens(6, seed=2)]
        rows = step(make_executor(contract), make_batch([(0, 11), (0, 1), (0, 6)]), prompts)
        # Block 0 is nobody's.
        results.append([*rows, *(layers[name].kv_cache[1:].clone() for name in LAYERS)])
    for paged, gathered in zip(*results, strict=True):
        close(paged, gathered)


@pytest.mark.parametrize("contract", ["paged", "gather"])
def test_a_shared_prefix_may_be_written_in_the_same_step(
    contract: str, model: Model, make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    prompt = some_tokens(10)
    batch = make_batch([(8, 2), (0, 10)], BLOCK, [[1, 2, 9], [1, 2, 3]])
    rows = step(make_executor(contract), batch, [prompt[8:], prompt])
    close(rows[0], model.plain(prompt)[8:])
    close(rows[1], model.plain(prompt))


@pytest.mark.parametrize("contract", ["paged", "gather"])
def test_layers_may_have_block_tables_and_block_sizes_of_their_own(
    contract: str,
    config: VllmConfig,
    model: Model,
    make_executor: MakeExecutor,
    make_batch: Callable[..., Batch],
) -> None:
    first, second = LAYERS
    config.compilation_config.static_forward_context[second].kv_cache = torch.zeros(
        BLOCKS, KV_HEADS, 2 * BLOCK, 2 * SIZE
    )
    groups = [LayerGroup((first,), BLOCK, WIDTH), LayerGroup((second,), 2 * BLOCK, WIDTH)]
    executor = make_executor(contract, groups=groups)
    prompt = some_tokens(14)
    for context, new in ((0, 11), (11, 1), (12, 2)):
        one = make_batch([(context, new)], BLOCK, [[7, 3, 9, 5]])
        other = make_batch([(context, new)], 2 * BLOCK, [[4, 2]])
        batch = Batch(
            one.query_start_loc,
            one.seq_lens,
            one.block_tables + other.block_tables,
            one.slot_mappings + other.slot_mappings,
            (BLOCK, 2 * BLOCK),
        )
        end = context + new
        (rows,) = step(executor, batch, [prompt[context:end]])
        close(rows, model.plain(prompt[:end])[context:])


@pytest.mark.parametrize("contract", ["paged", "gather"])
def test_auxiliary_hidden_states_come_with_their_names(
    contract: str,
    model: Model,
    make_executor: MakeExecutor,
    make_batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A draft model may ask for states from between the layers."""
    plain = model.forward

    def forward(**inputs: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        hidden = plain(**inputs)
        return hidden, [hidden + 1, hidden + 2]

    monkeypatch.setattr(model, "forward", forward)
    executor, prompt = make_executor(contract), some_tokens(19)
    batch = make_batch([(0, 19)])
    metadata = PagedMetadata(
        torch.nn.functional.pad(torch.from_numpy(batch.block_tables[0]), (0, 9)),
        *map(torch.from_numpy, (batch.slot_mappings[0], batch.query_start_loc, batch.seq_lens)),
    )
    inputs = {"input_ids": torch.tensor(prompt).int(), "positions": torch.arange(19)}
    outputs = executor(inputs, dict.fromkeys(LAYERS, metadata))
    assert list(outputs) == [HIDDEN, f"{AUXILIARY}0", f"{AUXILIARY}1"]
    assert outputs[f"{AUXILIARY}1"].equal(outputs[HIDDEN] + 2)


@pytest.mark.parametrize("contract", ["paged", "gather"])
def test_rows_outlive_the_next_step(
    contract: str, make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    executor, batch = make_executor(contract), make_batch([(0, 5)])
    (rows,) = step(executor, batch, [some_tokens(5)])
    kept = rows.clone()
    step(executor, batch, [some_tokens(5, seed=2)])
    assert rows.equal(kept)


@pytest.mark.parametrize("contract", ["paged", "gather"])
def test_warm_up_compiles_every_bucket_and_writes_no_cache(
    contract: str,
    config: VllmConfig,
    make_executor: MakeExecutor,
    make_batch: Callable[..., Batch],
) -> None:
    executor = make_executor(contract, strict=True)
    assert warm_up([executor]) > 0
    counted = executor._counters.values
    assert counted[names.COMPILED] == len(list(executor.shapes))
    layers = config.compilation_config.static_forward_context
    assert all(layers[name].kv_cache.count_nonzero() == 0 for name in LAYERS)
    for size in range(1, 33):  # Strict: a graph that is missing would raise.
        step(executor, make_batch([(0, size)]), [some_tokens(size)])
    assert names.LATE not in counted

    executor._graphs.clear()  # Nothing is compiled unnoticed from now on.
    with pytest.raises(NPUError, match="after warm-up"):
        step(executor, make_batch([(0, 1)]), [some_tokens(1)])


@pytest.mark.parametrize(("contract", "traces"), [("paged", 1), ("gather", 2)])
def test_buckets_share_a_trace(
    contract: str,
    traces: int,
    model: Model,
    make_executor: MakeExecutor,
    make_batch: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decodes and chunks have one each; a bucket of one would, too."""
    plain, times = model.forward, []

    def forward(**inputs: Any) -> torch.Tensor:
        times.append(1)
        return plain(**inputs)

    executor, wanted = make_executor(contract), some_tokens(19)
    executor.shapes.decode.pop(1, None)
    monkeypatch.setattr(model, "forward", forward)
    warm_up([executor])
    assert len(times) == traces < len(list(executor.shapes))
    (rows,) = step(executor, make_batch([(0, 19)]), [wanted])
    close(rows, model.plain(wanted))


def test_a_late_graph_is_counted_and_warned_of(
    make_executor: MakeExecutor,
    make_batch: Callable[..., Batch],
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = make_executor()
    executor.seal()
    with caplog.at_level(logging.WARNING, "vllm.npu"):
        step(executor, make_batch([(0, 5)]), [some_tokens(5)])
        step(executor, make_batch([(0, 6)]), [some_tokens(6)])
    (line,) = caplog.messages
    assert line.startswith("Graph tokens=8 is compiled after warm-up")
    assert "VLLM_NPU_WARM_UP=1" in line
    assert executor._counters.values[names.LATE] == 1


def test_strict_mode_makes_a_late_graph_an_error(
    make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    executor = make_executor(strict=True)
    executor.seal()
    with pytest.raises(NPUError, match=r"tokens=8 is .*VLLM_NPU_STRICT=0 allows it"):
        step(executor, make_batch([(0, 5)]), [some_tokens(5)])


def test_runs_and_padding_are_counted_by_bucket(
    make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    executor = make_executor()
    step(executor, make_batch([(0, 5), (0, 1)]), [some_tokens(5), some_tokens(1)])
    step(executor, make_batch([(0, 9)]), [some_tokens(9)])
    counted = executor._counters.values
    assert counted["bucket:tokens=8"] == counted["bucket:tokens=32"] == 1
    assert (counted[names.TOKENS], counted[names.PADDED_TOKENS]) == (15, 25)
    assert (counted[names.ROWS], counted[names.PADDED_ROWS]) == (3, 5)
    assert counted[names.DEVICE_SECONDS] > 0


def test_weights_changed_in_place_are_used_at_once(
    model: Model, make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    executor, prompt = make_executor(), some_tokens(5)
    step(executor, make_batch([(0, 5)]), [prompt])
    with torch.no_grad():
        model.embedding.weight.mul_(2)
    close(step(executor, make_batch([(0, 5)]), [prompt])[0], model.plain(prompt))


def test_weights_put_in_place_of_others_are_used_once_rebound(
    model: Model, make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    executor, prompt = make_executor(), some_tokens(5)
    step(executor, make_batch([(0, 5)]), [prompt])
    model.embedding.weight = nn.Parameter(model.embedding.weight.detach() * 2)
    executor.rebind_weights()
    close(step(executor, make_batch([(0, 5)]), [prompt])[0], model.plain(prompt))


def test_a_closed_executor_holds_no_graph(
    make_executor: MakeExecutor, make_batch: Callable[..., Batch]
) -> None:
    executor = make_executor()
    step(executor, make_batch([(0, 5)]), [some_tokens(5)])
    (graph,) = executor._graphs.values()
    executor.close()
    assert executor.memory == 0
    assert not executor.host_operators
    with pytest.raises(BadShapeError, match="runs without"):
        graph.run()
