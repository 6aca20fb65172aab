"""Shapes: every graph of a configuration, under both contracts and a device's limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vllm_npu_platform.graph.shapes import Shape, contract_of, graph_shapes
from vllm_npu_platform.target import Target
from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import BucketSettings

Make = Callable[..., Any]
FEW = BucketSettings(strategy="exponential", step=4, limit=3)


def test_paged_has_token_buckets(make_config: Make, make_target: Callable[..., Target]) -> None:
    shapes = graph_shapes(make_config(), make_target(kv_contract="paged", token_bucket=FEW))
    assert list(shapes.paged) == [4, 16, 64]
    assert not shapes.decode and not shapes.chunk


def test_a_paged_bucket_has_no_more_requests_than_tokens(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    shapes = graph_shapes(make_config(), make_target(kv_contract="paged", token_bucket=FEW))
    assert [shape.requests for shape in shapes.paged.values()] == [4, 8, 8]


def test_the_device_says_how_far_apart_buckets_are_unless_the_user_does(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    wide = {"bucket_step": 8}
    assert list(graph_shapes(make_config(), make_target(wide)).paged) == [1, 8, 64]
    chosen = make_target(wide, token_bucket=BucketSettings(min=16, step=2))
    assert list(graph_shapes(make_config(), chosen).paged) == [16, 32, 64]


def test_gather_has_decode_and_chunk_buckets(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    target = make_target(
        kv_contract="gather",
        decode_batch_bucket=FEW,
        prefill_chunk_bucket=FEW,
        prefill_chunk_size=32,
    )
    shapes = graph_shapes(make_config(), target)
    assert list(shapes.decode) == [2, 8]
    assert list(shapes.chunk) == [2, 8, 32]
    assert all(shape.tokens == shape.requests for shape in shapes.decode.values())
    assert all(shape.requests == 1 for shape in shapes.chunk.values())
    assert not shapes.paged


def test_a_chunk_is_no_larger_than_a_step(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    target = make_target(kv_contract="gather", prefill_chunk_size=512)
    assert max(graph_shapes(make_config(tokens=96), target).chunk) == 96


def test_a_device_bounds_batch_and_chunk(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    limits = {"max_batch_size": 3, "max_tokens": 20}
    shapes = graph_shapes(make_config(), make_target(limits, kv_contract="gather"))
    assert max(shapes.decode) == 3
    assert max(shapes.chunk) == 20


def test_all_come_largest_first_and_once(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    shapes = graph_shapes(make_config(), make_target({"bucket_step": 2}, kv_contract="gather"))
    listed = list(shapes)
    assert [shape.tokens for shape in listed] == sorted((s.tokens for s in listed), reverse=True)
    # One decoding request and a chunk of one token are the same graph.
    assert 1 in shapes.decode and 1 in shapes.chunk
    assert listed.count(Shape(KVContract.GATHER, 1, 1)) == 1


def test_shapes_name_themselves() -> None:
    assert str(Shape(KVContract.PAGED, 64, 8)) == "tokens=64"
    assert str(Shape(KVContract.GATHER, 8, 8)) == "decode=8"
    assert str(Shape(KVContract.GATHER, 64, 1)) == "chunk=64"


@pytest.mark.parametrize(
    "model",
    [{"attention": "encoder_only"}, {"chunked": False}],
    ids=["an encoder", "a pooling model without chunked prefill"],
)
def test_whole_prompts_have_chunks_as_long_as_a_step(
    make_config: Make, make_target: Callable[..., Target], model: dict[str, Any]
) -> None:
    config = make_config(runner="pooling", **model)
    target = make_target(kv_contract="gather", prefill_chunk_size=16)
    shapes = graph_shapes(config, target)
    assert max(shapes.chunk) == 64
    assert not shapes.decode


def test_a_whole_prompt_that_the_device_cannot_run_is_refused(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    config = make_config(runner="pooling", attention="encoder_only")
    target = make_target({"max_tokens": 48}, kv_contract="gather")
    with pytest.raises(ConfigurationError, match=r"max_model_len 64: .* Use --max-model-len 48"):
        graph_shapes(config, target)


def test_auto_takes_the_contract_that_the_device_serves_best(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    assert contract_of(make_target(), make_config()) is KVContract.PAGED
    only = {"kv_contracts": (KVContract.GATHER,)}
    assert contract_of(make_target(only), make_config()) is KVContract.GATHER


def test_a_model_that_caps_scores_gathers_where_the_device_pages_without_a_cap(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    config = make_config(soft_cap=50.0)
    assert contract_of(make_target(), config) is KVContract.PAGED
    assert contract_of(make_target({"soft_cap": False}), config) is KVContract.GATHER
    with pytest.raises(ConfigurationError, match="caps attention scores"):
        contract_of(make_target({"soft_cap": False}, kv_contract="paged"), config)


def test_one_graph_for_any_number_of_tokens_where_the_device_prefers_it(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    (shape,) = graph_shapes(make_config(), make_target({"dynamic_tokens": True}))
    assert shape == Shape(KVContract.PAGED, 64, 8, dynamic=True)
    assert str(shape) == "tokens=1-64"


def test_buckets_that_were_asked_for_are_kept_on_such_a_device(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    few = BucketSettings(strategy="exponential", step=8, limit=2)
    shapes = graph_shapes(make_config(), make_target({"dynamic_tokens": True}, token_bucket=few))
    assert list(shapes.paged) == [8, 64]
    plain = make_target({"dynamic_tokens": True}, dynamic_tokens=False)
    assert len(graph_shapes(make_config(), plain).paged) > 1


@pytest.mark.parametrize(
    ("limits", "settings", "reason"),
    [
        ({"static_shapes_only": True}, {}, "runs static shapes only"),
        ({}, {"token_bucket": BucketSettings(limit=2)}, "token_bucket would be ignored"),
        ({}, {"kv_contract": "gather"}, "the gather contract has static shapes only"),
    ],
)
def test_any_number_of_tokens_is_refused_where_it_cannot_be(
    make_config: Make,
    make_target: Callable[..., Target],
    limits: dict[str, Any],
    settings: dict[str, Any],
    reason: str,
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        graph_shapes(make_config(), make_target(limits, dynamic_tokens=True, **settings))


def test_a_contract_that_the_device_does_not_serve_is_refused(
    make_config: Make, make_target: Callable[..., Target]
) -> None:
    target = make_target({"kv_contracts": (KVContract.GATHER,)}, kv_contract="paged")
    with pytest.raises(ConfigurationError, match="kv_contract 'paged': paper serves gather"):
        contract_of(target, make_config())
