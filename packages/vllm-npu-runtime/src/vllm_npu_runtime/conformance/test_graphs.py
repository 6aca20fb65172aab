"""The parts that models are made of, in every declared dtype, against PyTorch in float32."""

import torch
from torch.nn.functional import embedding, gelu, layer_norm, linear, silu

from vllm_npu_runtime.conformance.bench import Bench, run
from vllm_npu_runtime.conformance.oracle import assert_close
from vllm_npu_runtime.conformance.transformer import rms_norm, rotary


def test_mlp(bench: Bench, dtype: torch.dtype) -> None:
    """A gated MLP: two products with weights, a product of elements, SiLU."""
    x = torch.randn(8, 32).to(dtype)
    up, gate, down = ((torch.randn(32, 32) * 32**-0.5).to(dtype) for _ in range(3))
    executable = bench.compile(
        lambda: {"out": linear(silu(linear(x, gate)) * linear(x, up), down)},
        {"x": x},
        weights={"up": up, "gate": gate, "down": down},
    )
    wide = x.float()
    inner = silu(linear(wide, gate.float())) * linear(wide, up.float())
    assert_close(run(executable)["out"], linear(inner, down.float()), dtype)


def test_linear_with_bias_and_gelu(bench: Bench, dtype: torch.dtype) -> None:
    """An encoder's layer: product, bias, GELU."""
    x, bias = torch.randn(8, 32).to(dtype), torch.randn(16).to(dtype)
    weight = (torch.randn(16, 32) * 32**-0.5).to(dtype)
    executable = bench.compile(
        lambda: {"out": gelu(linear(x, weight, bias))}, {"x": x}, {"weight": weight, "bias": bias}
    )
    expected = gelu(linear(x.float(), weight.float(), bias.float()))
    assert_close(run(executable)["out"], expected, dtype)


def test_rms_norm(bench: Bench, dtype: torch.dtype) -> None:
    """A norm that computes in float32 whatever comes in."""
    x, weight = torch.randn(8, 32).to(dtype), torch.rand(32).to(dtype)
    executable = bench.compile(lambda: {"out": rms_norm(x, weight)}, {"x": x}, {"weight": weight})
    assert_close(run(executable)["out"], rms_norm(x.float(), weight.float()), dtype)


def test_layer_norm(bench: Bench, dtype: torch.dtype) -> None:
    """An operator with several results, of which one is used."""
    x, weight, bias = (
        torch.randn(8, 32).to(dtype),
        torch.rand(32).to(dtype),
        torch.rand(32).to(dtype),
    )
    executable = bench.compile(
        lambda: {"out": layer_norm(x, (32,), weight, bias)},
        {"x": x},
        {"weight": weight, "bias": bias},
    )
    expected = layer_norm(x.float(), (32,), weight.float(), bias.float())
    assert_close(run(executable)["out"], expected, dtype)


def test_rotary(bench: Bench, dtype: torch.dtype) -> None:
    """Integer positions in, sines and cosines of them on queries."""
    x, positions = torch.randn(8, 4, 16).to(dtype), torch.tensor([0, 1, 2, 3, 50, 51, 7, 0])
    executable = bench.compile(
        lambda: {"out": rotary(x, positions)}, {"x": x, "positions": positions}
    )
    assert_close(run(executable)["out"], rotary(x.float(), positions), dtype)


def test_far_positions(bench: Bench, dtype: torch.dtype) -> None:
    """Angles are float32 between products of any dtype: bfloat16 tells no 2999 from 3000."""
    x, positions = torch.randn(8, 64).to(dtype), torch.tensor([0, 1, 257, 2999, 3000, 51, 4095, 9])
    weight = (torch.randn(64, 64) / 8).to(dtype)

    def turned(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        heads = linear(x, weight).view(8, 4, 16)
        return linear(rotary(heads, positions).view(8, 64), weight)

    executable = bench.compile(
        lambda: {"out": turned(x, weight)}, {"x": x, "positions": positions}, {"weight": weight}
    )
    assert_close(run(executable)["out"], turned(x.float(), weight.float()), dtype)


def test_embedding(bench: Bench, dtype: torch.dtype) -> None:
    """A lookup in a weight by integers, exact to the bit."""
    table, tokens = torch.randn(50, 16).to(dtype), torch.tensor([0, 49, 7, 7])
    executable = bench.compile(
        lambda: {"out": embedding(tokens, table)}, {"tokens": tokens}, {"table": table}
    )
    assert torch.equal(run(executable)["out"], table[tokens])


def test_softmax(bench: Bench, dtype: torch.dtype) -> None:
    """Large scores don't overflow, and masked ones get nothing."""
    x = (torch.randn(8, 32) * 20).to(dtype)
    mask = torch.rand(8, 32) < 0.3
    mask[:, 0] = False
    executable = bench.compile(
        lambda: {"out": x.masked_fill(mask, -torch.inf).softmax(-1)}, {"x": x, "mask": mask}
    )
    expected = x.float().masked_fill(mask, -torch.inf).softmax(-1)
    assert_close(run(executable)["out"], expected, dtype)


def test_several_outputs(bench: Bench, dtype: torch.dtype) -> None:
    """Outputs come in the program's order, each with its shape and dtype, views included."""
    x = torch.randn(6, 8).to(dtype)
    executable = bench.compile(
        lambda: {"sum": x + 1, "turned": (x * 2).t(), "largest": x.argmax(-1)}, {"x": x}
    )
    outputs = executable.run()
    for binding, tensor in zip(executable.program.outputs, outputs, strict=True):
        assert tuple(tensor.shape) == binding.shape
        assert tensor.dtype == binding.dtype
    named = run(executable)
    assert_close(named["sum"], x.float() + 1, dtype)
    assert_close(named["turned"], (x.float() * 2).t(), dtype)
    assert torch.equal(named["largest"], x.argmax(-1))
