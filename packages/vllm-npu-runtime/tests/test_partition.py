"""A program split by what a device runs gives what the whole gives, in few pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_npu_runtime.capture import Named, capture
from vllm_npu_runtime.conformance.transformer import rms_norm, rotary
from vllm_npu_runtime.drivers.reference import ReferenceExecutable
from vllm_npu_runtime.errors import BadShapeError
from vllm_npu_runtime.ops.paged_attention import decomposition as paged_attention
from vllm_npu_runtime.partition import Partition, partition
from vllm_npu_runtime.partitioned import PartitionedExecutable
from vllm_npu_runtime.program import Kind, Program, operator_name

Tensors = Mapping[str, torch.Tensor]


def make(
    function: Callable[[], Tensors], weights: Tensors | None = None, **inputs: torch.Tensor
) -> Program:
    """The program of a function; an input whose name begins with ``kv`` is a cache."""
    named = [
        Named(name, Kind.KV_CACHE if name.startswith("kv") else Kind.INPUT, tensor)
        for name, tensor in inputs.items()
    ]
    named += [Named(name, Kind.WEIGHT, tensor) for name, tensor in (weights or {}).items()]
    return capture("whole", function, named)


def executable(program: Program, supported: Iterable[str]) -> PartitionedExecutable:
    """Its pieces, all run by PyTorch."""
    return PartitionedExecutable(program, partition(program, set(supported)), ReferenceExecutable)


def sides(parts: Partition) -> list[bool]:
    """For each piece whether it is the device's."""
    return [piece.on_device for piece in parts.pieces]


def check(program: Program, supported: Iterable[str], tensors: Tensors) -> Partition:
    """Compare pieces with the whole: results, and what is written in place."""
    mine = {name: tensor.clone() for name, tensor in tensors.items()}
    theirs = {name: tensor.clone() for name, tensor in tensors.items()}
    pieces, whole = executable(program, supported), ReferenceExecutable(program)
    pieces.bind(mine)
    whole.bind(theirs)
    for _ in range(2):
        for actual, expected in zip(pieces.run(), whole.run(), strict=True):
            torch.testing.assert_close(actual, expected)
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name])
    return partition(program, set(supported))


def test_all_supported_is_one_device_piece() -> None:
    """Nothing is split, and nothing is left to the host."""
    x = torch.randn(3, 4)
    parts = check(
        make(lambda: {"out": (x @ x.t()).relu()}, x=x), {"aten.mm", "aten.relu"}, {"x": x}
    )
    assert sides(parts) == [True]
    assert parts.host_operators == ()


def test_nothing_supported_is_one_host_piece() -> None:
    """All operators that compute are named, sorted; views are not."""
    x = torch.randn(3, 4)
    parts = check(make(lambda: {"out": (x @ x.t()).relu()}, x=x), set(), {"x": x})
    assert sides(parts) == [False]
    assert parts.host_operators == ("aten.mm", "aten.relu")


def test_pieces_alternate() -> None:
    """Device, host, device: as many pieces as there are changes of side."""
    x = torch.randn(3, 3)
    program = make(lambda: {"out": ((x @ x).softmax(-1) @ x).relu()}, x=x)
    parts = check(program, {"aten.mm", "aten.relu"}, {"x": x})
    assert sides(parts) == [True, False, True]
    assert parts.host_operators == ("aten._softmax",)


def test_supported_may_be_a_function_of_the_node() -> None:
    """As for an operator that a device runs in some shapes only."""
    x = torch.randn(3, 3)
    program = make(lambda: {"out": (x @ x).sum() * 2}, x=x)

    def wide(node: torch.fx.Node) -> bool:
        return node.meta["val"].ndim == 2

    assert sides(partition(program, wide)) == [True, False]


def test_views_and_creation_make_no_pieces() -> None:
    """They go along with whoever needs them, listed or not."""
    x = torch.randn(4, 6)

    def work() -> Tensors:
        first, second = x.view(2, 2, 6).permute(1, 0, 2).split(3, -1)
        shifted = first @ second.transpose(-1, -2) + torch.arange(2)
        return {"out": shifted.unsqueeze(0).expand(3, 2, 2, 2) * torch.ones(2)}

    program = make(work, x=x)
    parts = check(program, {"aten.bmm", "aten.add", "aten.mul", "aten.clone"}, {"x": x})
    assert sides(parts) == [True]


def test_views_are_made_on_either_side() -> None:
    """Whole tensors pass, never views of them."""
    x = torch.randn(4, 4)

    def work() -> Tensors:
        turned = (x @ x).t()
        return {"out": turned.softmax(-1) + turned.relu()}

    parts = check(make(work, x=x), {"aten.mm", "aten.relu", "aten.add"}, {"x": x})
    passed = {name for piece in parts.pieces for name in piece.program.named(Kind.INPUT)}
    assert passed == {"x", "%mm", "%_softmax"}


def test_operator_with_several_results_stays_whole() -> None:
    """Each result passes on its own."""
    x = torch.randn(4, 8)

    def work() -> Tensors:
        values, indices = x.topk(3)
        return {"values": values.relu(), "indices": indices}

    for supported in ({"aten.relu"}, {"aten.topk"}):
        assert len(check(make(work, x=x), supported, {"x": x}).pieces) == 2


def test_constants_come_along() -> None:
    """A tensor that the function makes from Python numbers."""
    x = torch.randn(3)

    def work() -> Tensors:
        return {"out": (x * torch.tensor([1.0, 2.0, 3.0])).softmax(-1)}

    for supported in (set(), {"aten.mul"}, {"aten._softmax"}):
        check(make(work, x=x), supported, {"x": x})


@pytest.mark.parametrize("supported", [{"aten.mul"}, {"aten.copy_"}, {"aten.sum"}, set()])
def test_writes_keep_their_order(supported: set[str]) -> None:
    """What reads a cache before a write, and after, sees what it should, from any side."""
    x, kv = torch.randn(2), torch.randn(4)

    def work() -> Tensors:
        before = (kv * 3).sum()
        kv[1:3].copy_(x * 2)
        return {"before": before, "after": kv.sum()}

    check(make(work, x=x, kv=kv), supported, {"x": x, "kv": kv})


@pytest.mark.parametrize("supported", [{"aten.mul"}, {"aten.add_"}, {"aten.mul", "aten.add_"}])
def test_writes_to_values_between_pieces(supported: set[str]) -> None:
    """A tensor that one piece makes and another writes to, and views of it as results."""
    x = torch.randn(2, 3)

    def work() -> Tensors:
        made = x * 2
        view = made.t()
        read = made.sum(0)
        made.add_(1)
        return {"read": read, "view": view, "after": view.softmax(-1)}

    check(make(work, x=x), supported, {"x": x})


@pytest.mark.parametrize("supported", [{"aten.mul"}, {"aten.copy_"}])
def test_writes_to_created_tensors(supported: set[str]) -> None:
    """A buffer of zeros is made once, wherever it is filled and read."""
    x = torch.randn(3)

    def work() -> Tensors:
        buffer = torch.zeros(6)
        buffer[:3].copy_(x * 2)
        buffer[3:].copy_(x * 3)
        return {"out": buffer * 1.5}

    check(make(work, x=x), supported, {"x": x})


def test_bindings_keep_their_names_and_kinds() -> None:
    """Weights come with their tensors, caches with their kind, the rest as inputs."""
    x, kv, weight = torch.randn(2, 2), torch.randn(2, 2), torch.randn(2, 2)

    def work() -> Tensors:
        kv.copy_(x @ weight)
        return {"out": kv.softmax(-1) @ weight}

    program = make(work, {"layer.weight": weight}, x=x, kv=kv)
    first, host, last = partition(program, {"aten.mm"}).pieces
    assert set(first.program.named(Kind.WEIGHT)) == {"layer.weight"}
    assert first.program.weights["layer.weight"] is weight
    assert set(first.program.named(Kind.INPUT)) == {"x"}
    assert set(host.program.named(Kind.KV_CACHE)) == {"kv"}
    assert set(host.program.named(Kind.INPUT)) == {"%mm"}
    assert [each.name for each in host.program.outputs] == ["%_softmax"]
    assert set(last.program.named(Kind.INPUT)) == {"%_softmax"}
    assert last.program.weights["layer.weight"] is weight


def test_program_is_left_as_it_was() -> None:
    """A driver may try one split, then another."""
    x = torch.randn(3, 3)
    program = make(lambda: {"out": (x @ x).t().softmax(-1) @ x}, x=x)
    before = program.graph.code
    assert len(partition(program, {"aten.mm"}).pieces) == 3
    assert program.graph.code == before
    assert len(partition(program, program.operators()).pieces) == 1


def _block() -> tuple[Program, Tensors]:
    """A layer over a paged cache, attention in ATen: some eighty operators of all sorts."""
    tokens, heads, size, block = 4, 2, 8, 4
    x, norm = torch.randn(tokens, heads * size), torch.rand(heads * size)
    weight = torch.randn(3 * heads * size, heads * size)
    kv = torch.randn(6, heads, block, 2 * size)
    table = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    slots, positions = torch.tensor([4, 5, 12, -1]), torch.tensor([0, 1, 0, 0])
    starts = torch.tensor([0, 2, 3], dtype=torch.int32)
    lens = torch.tensor([2, 1], dtype=torch.int32)

    def work() -> Tensors:
        qkv = (rms_norm(x, norm) @ weight.t()).view(tokens, 3 * heads, size)
        query, key, value = qkv.split(heads, 1)
        query, key = rotary(query, positions), rotary(key, positions)
        out = paged_attention(query, key, value, kv, table, slots, starts, lens, 0.3)
        return {"out": out.reshape(tokens, -1) + x, "key": key}

    tensors = {
        "x": x,
        "kv": kv,
        "table": table,
        "slots": slots,
        "positions": positions,
        "starts": starts,
        "lens": lens,
    }
    return make(work, {"norm": norm, "weight": weight}, **tensors), tensors


@pytest.fixture(scope="module")
def block() -> tuple[Program, Tensors]:
    """Captured once."""
    return _block()


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_any_split_gives_the_same(block: tuple[Program, Tensors], data: st.DataObject) -> None:
    """Whatever set of operators the device lists."""
    program, tensors = block
    supported = data.draw(st.sets(st.sampled_from(sorted(program.operators()))))
    parts = check(program, supported, tensors)
    # No two neighbours on one side: fewer pieces would need another order of operators.
    assert all(a is not b for a, b in zip(sides(parts), sides(parts)[1:], strict=False))
    for piece in parts.pieces:
        for node in piece.program.graph.graph.nodes:
            if operator_name(node) in parts.host_operators:
                assert not piece.on_device


class TestExecutable:
    """`PartitionedExecutable` is an executable like any other."""

    @pytest.fixture
    def x(self) -> torch.Tensor:
        return torch.randn(3, 3)

    @pytest.fixture
    def weight(self) -> torch.Tensor:
        return torch.randn(3, 3)

    @pytest.fixture
    def program(self, x: torch.Tensor, weight: torch.Tensor) -> Program:
        return make(lambda: {"out": (x @ weight).softmax(-1) @ weight}, {"w": weight}, x=x)

    def test_runs_again_on_new_values(self, program: Program, x: torch.Tensor) -> None:
        """Inputs bound anew, rewritten, and weights bound anew, in every piece."""
        pieces = executable(program, {"aten.mm"})
        for _ in range(2):
            weight = torch.randn(3, 3)
            pieces.bind({"x": x, "w": weight})
            x.copy_(torch.randn(3, 3))
            expected = (x @ weight).softmax(-1) @ weight
            torch.testing.assert_close(pieces.run()[0], expected)

    def test_memory_is_the_sum_of_the_pieces(self, program: Program) -> None:
        """What the device's pieces hold."""

        class Heavy(ReferenceExecutable):
            memory = 100

        pieces = PartitionedExecutable(program, partition(program, {"aten.mm"}), Heavy)
        assert pieces.memory == 200

    def test_wrong_bindings_are_refused(self, program: Program, x: torch.Tensor) -> None:
        """Under the whole program's name; values between pieces are nobody's to bind."""
        pieces = executable(program, {"aten.mm"})
        with pytest.raises(BadShapeError, match="'whole' has no input '%mm'"):
            pieces.bind({"%mm": x})
        with pytest.raises(BadShapeError, match="'x' of program 'whole'"):
            pieces.bind({"x": x[1:]})
        with pytest.raises(BadShapeError, match="runs without: x"):
            pieces.run()

    def test_closed_does_not_run(self, program: Program, x: torch.Tensor) -> None:
        """All pieces are closed."""
        pieces = executable(program, {"aten.mm"})
        pieces.bind({"x": x})
        pieces.close()
        with pytest.raises(BadShapeError):
            pieces.run()

    def test_failing_compile_closes_what_was_compiled(self, program: Program) -> None:
        """A device that is full after the first piece gets that piece's memory back."""
        made: list[ReferenceExecutable] = []
        closed: list[str] = []

        class Recorded(ReferenceExecutable):
            def close(self) -> None:
                closed.append(self.program.name)

        def compile_piece(piece: Program) -> ReferenceExecutable:
            if made:
                raise MemoryError
            made.append(Recorded(piece))
            return made[-1]

        with pytest.raises(MemoryError):
            PartitionedExecutable(program, partition(program, {"aten.mm"}), compile_piece)
        assert closed == ["whole/0"]
