"""Our operators: registered as torch wants them, and equal to their decompositions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_npu_runtime.capture import Named, capture
from vllm_npu_runtime.drivers.base import Capabilities
from vllm_npu_runtime.ops import encoder_attention, gather_attention, paged_attention
from vllm_npu_runtime.ops.table import DECOMPOSITIONS, decompositions_for
from vllm_npu_runtime.program import Kind

OPERATORS = torch.ops.vllm_npu
SIZE = 8
PADDING = st.integers(0, 3)


@dataclass(frozen=True)
class Case:
    """A ragged batch: what each request has in the cache, and what it brings."""

    contexts: tuple[int, ...]
    new: tuple[int, ...]
    block_size: int = 4
    groups: int = 2
    repeats: int = 2
    window: int = 0
    soft_cap: float = 0.0
    padded_tokens: int = 0
    padded_rows: int = 0
    dtype: torch.dtype = torch.float32

    @property
    def heads(self) -> int:
        return self.groups * self.repeats

    @property
    def options(self) -> tuple[float, int, float]:
        return (0.3, self.window, self.soft_cap)


@st.composite
def cases(draw: st.DrawFn, uniform: bool = False) -> Case:
    """Batches of one to four requests, with any mix of prefill and decode."""
    count = draw(st.integers(1, 4))
    lengths = st.lists(st.integers(0, 12), min_size=count, max_size=count)
    new = [draw(st.integers(1, 5))] * count if uniform else [n + 1 for n in draw(lengths)]
    return Case(
        contexts=tuple(draw(lengths)),
        new=tuple(new),
        block_size=draw(st.sampled_from([1, 3, 16])),
        groups=draw(st.integers(1, 3)),
        repeats=draw(st.integers(1, 2)),
        window=draw(st.sampled_from([0, 0, 1, 4])),
        soft_cap=draw(st.sampled_from([0.0, 2.0])),
        padded_tokens=0 if uniform else draw(PADDING),
        padded_rows=0 if uniform else draw(PADDING),
    )


def paged_inputs(case: Case) -> list[object]:
    """Arguments of `paged_attention`, with the context in a cache of shuffled blocks."""
    draw = random.Random(1)
    torch.manual_seed(1)
    ends = [a + b for a, b in zip(case.contexts, case.new, strict=True)]
    width = -(-max(ends) // case.block_size)
    rows = len(ends) + case.padded_rows
    blocks = list(range(1, rows * width + 1))
    draw.shuffle(blocks)
    table = torch.tensor(blocks, dtype=torch.int32).reshape(rows, width)
    slots = [
        int(table[row, at // case.block_size]) * case.block_size + at % case.block_size
        for row, (begin, end) in enumerate(zip(case.contexts, ends, strict=True))
        for at in range(begin, end)
    ] + [-1] * case.padded_tokens
    starts = [sum(case.new[:i]) for i in range(len(ends) + 1)]
    starts += starts[-1:] * case.padded_rows
    tokens = len(slots)
    cache = torch.randn(rows * width + 1, case.groups, case.block_size, 2 * SIZE)
    return [
        torch.randn(tokens, case.heads, SIZE, dtype=case.dtype),
        torch.randn(tokens, case.groups, SIZE, dtype=case.dtype),
        torch.randn(tokens, case.groups, SIZE, dtype=case.dtype),
        cache.to(case.dtype),
        table,
        torch.tensor(slots),
        torch.tensor(starts, dtype=torch.int32),
        torch.tensor(ends + [0] * case.padded_rows, dtype=torch.int32),
        *case.options,
    ]


def gather_inputs(case: Case) -> list[object]:
    """Arguments of `gather_attention` for the same batch; every request brings as much."""
    query, key, value, cache, table, _slots, _starts, _lens, *options = paged_inputs(case)
    return [query, key, value, cache, table, torch.tensor(case.contexts).int(), *options]


def encoder_inputs(case: Case) -> list[object]:
    """Arguments of `encoder_attention`; contexts don't matter."""
    query, key, value, _cache, _table, _slots, starts, *_rest = paged_inputs(case)
    return [query, key, value, starts, *case.options]


def packed_inputs(
    bits: int, group: int, zero_point: bool = False, dtype: torch.dtype = torch.float32
) -> list[object]:
    """Arguments of `wna16_linear`: 128 inputs, 6 outputs, a bias."""
    torch.manual_seed(1)
    groups = 128 // group
    weight = torch.randint(0, 256, (6, 128 * bits // 8), dtype=torch.uint8)
    zero = torch.randint(0, 1 << bits, (6, groups), dtype=torch.uint8) if zero_point else None
    scale, bias = torch.rand(6, groups).to(dtype) / 128, torch.randn(6).to(dtype)
    return [torch.randn(3, 128).to(dtype), weight, scale, zero, bias, bits]


def copies(arguments: list[object]) -> list[object]:
    """The same arguments in memory of their own."""
    return [each.clone() if isinstance(each, torch.Tensor) else each for each in arguments]


def assert_same(left: torch.Tensor, right: torch.Tensor) -> None:
    """Equal but for rounding."""
    error = 1e-5 if left.dtype is torch.float32 else 2e-2
    torch.testing.assert_close(left, right, rtol=error, atol=error)


MIXED = Case((0, 7, 5), (6, 1, 3), padded_tokens=2, padded_rows=1)
UNIFORM = Case((0, 7, 5), (2, 2, 2))


@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (OPERATORS.paged_attention, paged_inputs(MIXED)),
        (OPERATORS.gather_attention, gather_inputs(UNIFORM)),
        (OPERATORS.encoder_attention, encoder_inputs(MIXED)),
    ],
    ids=lambda value: str(value).removeprefix("vllm_npu.") if callable(value) else "",
)
def test_operator_is_well_formed(
    operator: torch._ops.OpOverloadPacket, arguments: list[object], soft_cap: float
) -> None:
    """Schema, fake version and dispatch hold what they say."""
    torch.library.opcheck(operator.default, (*copies(arguments[:-1]), soft_cap))


def test_paged_attention_without_keys_is_well_formed() -> None:
    """Keys and values are optional."""
    query, _key, _value, *rest = paged_inputs(MIXED)
    torch.library.opcheck(OPERATORS.paged_attention.default, (query, None, None, *rest))


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (OPERATORS.paged_attention, paged_inputs(MIXED)),
        (OPERATORS.gather_attention, gather_inputs(UNIFORM)),
        (OPERATORS.encoder_attention, encoder_inputs(MIXED)),
    ],
    ids=["paged", "gather", "encoder"],
)
def test_result_is_contiguous_as_its_fake_says(
    operator: torch._ops.OpOverloadPacket, arguments: list[object]
) -> None:
    """Whatever the strides of the query: views of the result were traced over the fake's."""
    query = arguments[0]
    assert isinstance(query, torch.Tensor)
    turned = query.transpose(0, 1).contiguous().transpose(0, 1)
    assert operator(turned, *arguments[1:]).is_contiguous()


@given(cases())
@settings(max_examples=25, deadline=None)
def test_paged_attention_equals_its_decomposition(case: Case) -> None:
    """Results, padding included, and every block of the cache but block 0, which is nobody's."""
    check_paged(case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_paged_attention_equals_its_decomposition_in_half_precision(dtype: torch.dtype) -> None:
    """Both round alike, within the dtype's precision."""
    check_paged(Case((0, 7, 5), (6, 1, 3), dtype=dtype))


def check_paged(case: Case) -> None:
    """Run both on memory of their own."""
    left, right = copies(paged_inputs(case)), copies(paged_inputs(case))
    assert_same(OPERATORS.paged_attention(*left), paged_attention.decomposition(*right))
    assert torch.equal(left[3][1:], right[3][1:])


def test_paged_attention_without_keys_leaves_the_cache() -> None:
    """Another layer has written it."""
    query, _key, _value, cache, *rest = paged_inputs(MIXED)
    before = cache.clone()
    out = OPERATORS.paged_attention(query, None, None, cache, *rest)
    assert_same(out, paged_attention.decomposition(query, None, None, cache, *rest))
    assert torch.equal(cache, before)


@given(cases(uniform=True))
@settings(max_examples=15, deadline=None)
def test_gather_attention_equals_paged_attention(case: Case) -> None:
    """What one contract attends to after writing, the other attends to before."""
    gathered = OPERATORS.gather_attention(*gather_inputs(case))
    assert_same(gathered, OPERATORS.paged_attention(*copies(paged_inputs(case))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gather_attention_equals_its_decomposition(dtype: torch.dtype) -> None:
    """The host runs it as it stands."""
    arguments = gather_inputs(Case((0, 7, 5), (2, 2, 2), dtype=dtype))
    expected = gather_attention.decomposition(*arguments)
    assert torch.equal(OPERATORS.gather_attention(*arguments), expected)


@given(cases())
@settings(max_examples=15, deadline=None)
def test_encoder_attention_equals_its_decomposition(case: Case) -> None:
    """On real rows; the decomposition leaves padding to itself."""
    arguments = encoder_inputs(case)
    real = sum(case.new)
    out = OPERATORS.encoder_attention(*arguments)
    assert_same(out[:real], encoder_attention.decomposition(*arguments)[:real])
    assert not out[real:].any()


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_decomposition_is_captured(name: str) -> None:
    """Static ATen, without a trace of the operator, and with the same result and cache."""
    make = {
        "paged": paged_inputs,
        "gather": gather_inputs,
        "encoder": encoder_inputs,
        "wna16": lambda _case: packed_inputs(4, 32, zero_point=True),
    }
    arguments = make[name.split(".")[1].split("_")[0]](UNIFORM)
    operator = getattr(OPERATORS, name.removeprefix("vllm_npu."))
    tensors = {f"x{i}": each for i, each in enumerate(arguments) if isinstance(each, torch.Tensor)}
    unknowing = Capabilities((), (), (), operators=frozenset())
    program = capture(
        name,
        lambda: {"out": operator(*arguments)},
        [Named(key, Kind.INPUT, tensor) for key, tensor in tensors.items()],
        decompositions_for(unknowing),
    )
    assert all(each.startswith("aten.") for each in program.operators())
    fresh = {key: tensor.clone() for key, tensor in tensors.items()}
    out = program.graph(*(fresh[binding.name] for binding in program.inputs))[0]
    assert_same(out, operator(*arguments))
    if "paged" in name:
        assert torch.equal(fresh["x3"][1:], tensors["x3"][1:])


def test_known_operators_are_not_decomposed() -> None:
    """A device that lists them, or lists nothing, gets them as they are."""
    every = Capabilities((), (), (), operators=None)
    one = Capabilities((), (), (), operators=frozenset({"aten.mm", "vllm_npu.paged_attention"}))
    assert decompositions_for(every) == {}
    assert set(decompositions_for(one)) == {
        OPERATORS.gather_attention.default,
        OPERATORS.encoder_attention.default,
        OPERATORS.wna16_linear.default,
    }


WILD = pytest.mark.parametrize("wild", [float("nan"), float("inf"), -float("inf"), 1e30])


@WILD
@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("chunk", [1, 3])
def test_slots_of_nobody_have_no_influence_on_gather_attention(
    wild: float, soft_cap: float, window: int, chunk: int
) -> None:
    """Behind a context in its last block, in blocks that others have, and in block 0."""
    case = Case((0, 7, 5), (chunk,) * 3, window=window, soft_cap=soft_cap)
    arguments = gather_inputs(case)
    expected = OPERATORS.gather_attention(*arguments)
    cache, table = arguments[3], arguments[4]
    owned = _owned(cache, table, case.contexts)
    cache.masked_fill_(~owned[:, None, :, None], wild)
    assert_same(OPERATORS.gather_attention(*arguments), expected)


@WILD
@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("operator", ["host", "decomposition"])
def test_slots_of_nobody_have_no_influence_on_paged_attention(
    wild: float, soft_cap: float, window: int, operator: str
) -> None:
    """Nor what padded rows bring."""
    case = Case((0, 7, 5), (6, 1, 3), 4, 2, 2, window, soft_cap, padded_tokens=2, padded_rows=1)
    run = OPERATORS.paged_attention if operator == "host" else paged_attention.decomposition
    arguments = paged_inputs(case)
    expected = run(*copies(arguments))
    cache, table = arguments[3], arguments[4]
    owned = _owned(cache, table, case.contexts)
    cache.masked_fill_(~owned[:, None, :, None], wild)
    for operand in arguments[:3]:
        operand[-case.padded_tokens :] = wild
    out = run(*arguments)
    real = len(out) - case.padded_tokens
    assert_same(out[:real], expected[:real])


@WILD
@pytest.mark.parametrize("operator", ["host", "decomposition"])
def test_padding_has_no_influence_on_encoder_attention(wild: float, operator: str) -> None:
    case = Case((0, 0, 0), (6, 1, 3), padded_tokens=2, padded_rows=1)
    run = OPERATORS.encoder_attention if operator == "host" else encoder_attention.decomposition
    arguments = encoder_inputs(case)
    expected = run(*copies(arguments))
    for operand in arguments[:3]:
        operand[-case.padded_tokens :] = wild
    out = run(*arguments)
    real = len(out) - case.padded_tokens
    assert_same(out[:real], expected[:real])


@pytest.mark.parametrize("wild", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("run", "inputs", "case"),
    [
        (OPERATORS.encoder_attention, encoder_inputs, Case((0, 0, 0), (6, 1, 3))),
        (encoder_attention.decomposition, encoder_inputs, Case((0, 0, 0), (6, 1, 3))),
        (OPERATORS.paged_attention, paged_inputs, Case((0, 7, 5), (6, 1, 3))),
        (paged_attention.decomposition, paged_inputs, Case((0, 7, 5), (6, 1, 3))),
        (OPERATORS.gather_attention, gather_inputs, Case((0, 7, 5), (3, 3, 3))),
    ],
)
def test_a_request_with_wild_values_spoils_itself_alone(
    wild: float, run: Any, inputs: Callable[[Case], list[object]], case: Case
) -> None:
    """Its own result shows them; those beside it are as they were."""
    arguments = inputs(case)
    expected = run(*copies(arguments))
    first = slice(0, case.new[0])
    arguments[2][first] = wild
    out = run(*arguments)
    assert not out[first].isfinite().any()
    assert_same(out[case.new[0] :], expected[case.new[0] :])


def _owned(cache: torch.Tensor, table: torch.Tensor, contexts: tuple[int, ...]) -> torch.Tensor:
    """Which slots hold a request's context, `[blocks, S]`."""
    blocks, _, size, _ = cache.shape
    owned = torch.zeros(blocks, size, dtype=torch.bool)
    for row, context in enumerate(contexts):
        for at in range(context):
            owned[table[row, at // size], at % size] = True
    return owned
