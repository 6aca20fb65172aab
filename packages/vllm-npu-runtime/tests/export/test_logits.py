"""Every family's graphs give Hugging Face's logits, however the tokens are cut into steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .checkpoints import CHECKPOINTS, WINDOW
from .conftest import Compile
from .oracle import Stateful, logits_of, model_of, random_tokens

CLOSE = 1e-4
LENGTH = 5 * WINDOW
EVERY = [name for name in CHECKPOINTS if not name.endswith(("16", "wide"))]


@pytest.mark.parametrize("name", EVERY)
def test_prefill_chunks_and_decode(
    name: str, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    artifact = compiled(name)
    tokens = random_tokens(artifact, 2, LENGTH)
    expected = logits_of(model_of(checkpoint(name)), tokens)
    found = Stateful(artifact).read(tokens, (1, 37, 1, 1, 16, LENGTH - 56))
    assert (found - expected).abs().max() < CLOSE
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "exaone4", "qwen2-windows"])
def test_padding_in_front_and_within(
    name: str, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    artifact = compiled(name)
    tokens = random_tokens(artifact, 2, LENGTH)
    model, session = model_of(checkpoint(name)), Stateful(artifact)
    # The second row has 5 tokens less in front, and 3 less after the first step.
    first = session.step(tokens[:, :40], [[1] * 40, [0] * 5 + [1] * 35])
    second = session.step(tokens[:, 40:60], [[1] * 20, [0] * 3 + [1] * 17])
    shorter = torch.cat([tokens[1, 5:40], tokens[1, 43:60]])
    expected = logits_of(model, shorter[None])[0]
    assert (first[1, 5:] - expected[:35]).abs().max() < CLOSE
    assert (second[1, 3:] - expected[35:]).abs().max() < CLOSE
    assert first.isfinite().all() and second.isfinite().all()  # padding is garbage, not NaN
    whole = logits_of(model, tokens[:1, :60])[0]
    assert (torch.cat([first[0], second[0]]) - whole).abs().max() < CLOSE


def test_rows_are_reordered(compiled: Compile, checkpoint: Callable[[str], Path]) -> None:
    artifact = compiled("qwen3")
    tokens = random_tokens(artifact, 2, 20)
    session = Stateful(artifact)
    session.step(tokens[:, :19])
    found = session.step(tokens[:, 19:].flip(0), rows=(1, 0))
    expected = logits_of(model_of(checkpoint("qwen3")), tokens)[:, -1:]
    assert (found.flip(0) - expected).abs().max() < CLOSE


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("llama", (None, None)),
        ("qwen2", (None, None)),
        ("qwen2-windows", (None, WINDOW)),
        ("exaone4", (WINDOW, None, WINDOW, None)),
        ("exaone4-global", (None, None)),
    ],
)
def test_the_manifest_tells_the_windows(
    name: str, windows: tuple[int | None, ...], compiled: Compile
) -> None:
    assert compiled(name).manifest.model.sliding_windows == windows


def test_a_window_hides_what_is_older(compiled: Compile) -> None:
    """Where all layers have one, logits don't change with a token that none reaches: two layers
    see twice as far."""
    artifact = compiled("qwen2-all-windows")
    reach = 2 * (WINDOW - 1)
    tokens = random_tokens(artifact, 1, reach + 2)
    changed = tokens.clone()
    changed[0, 0] = 109 - tokens[0, 0]
    one, other = (Stateful(artifact).read(each, (reach + 2,)) for each in (tokens, changed))
    differences = (one - other)[0].abs().amax(-1)
    assert differences[reach + 1] == 0
    assert (differences[: reach + 1] > 0).all()


@pytest.mark.parametrize("name", ["llama", "exaone4", "hyperclovax"])
def test_the_weights_go_back_into_the_model(
    name: str, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    from vllm_npu_runtime.export.torch_model import load_model, logits

    artifact = compiled(name)
    tokens = random_tokens(artifact, 1, 40)
    expected = logits_of(model_of(checkpoint(name)), tokens)
    model = load_model(artifact)
    assert torch.equal(logits_of(model, tokens), expected)
    with torch.no_grad():
        hidden = model.model(tokens).last_hidden_state
    assert torch.equal(logits(model, hidden), expected)


def test_angles_stay_exact_in_bfloat16(compiled: Compile) -> None:
    """Far positions are told apart although everything else is rounded."""
    from vllm_npu_runtime.openvino.devices import precisions

    if torch.bfloat16 not in precisions("CPU"):
        pytest.skip("this processor, or the one that is pretended, has no bfloat16")
    artifact = compiled("llama-bf16", dtype="bfloat16")
    tokens = random_tokens(artifact, 1, 250)
    exact = Stateful(artifact).read(tokens, (250,))
    rounded = Stateful(
        artifact, {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16"}
    ).read(tokens, (250,))
    error = (rounded - exact).square().mean(-1).sqrt()[0]
    assert error[-100:].mean() < 2 * error[:100].mean()


@pytest.mark.parametrize("name", ["llama", "exaone4", "qwen2-windows"])
def test_openvinos_static_pipeline_takes_decoder_and_head(
    name: str, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    """What an NPU runs, run by the CPU: one graph of both, a padded prompt, then tokens."""
    import numpy as np
    import openvino as ov

    core = ov.Core()
    artifact = compiled(name)
    decoder, head = (
        core.read_model(artifact.graph_path(graph), artifact.weights_path)
        for graph in ("decoder", "lm_head")
    )
    result = decoder.get_results()[0]
    for user in list(head.input("hidden").get_target_inputs()):
        user.replace_source_output(result.input_value(0))
    decoder.remove_result(result)
    decoder.add_results(head.get_results())
    decoder.validate_nodes_and_infer_types()
    config = {
        "NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE",
        "NPUW_LLM": "YES", "NPUW_LLM_MAX_PROMPT_LEN": 128, "NPUW_LLM_MIN_RESPONSE_LEN": 64,
    }  # fmt: skip
    request = core.compile_model(decoder, "NPU", config).create_infer_request()
    tokens = random_tokens(artifact, 1, 104)
    expected = logits_of(model_of(checkpoint(name)), tokens)[0]
    past = 0
    for count in (100, 1, 1, 1, 1):
        inputs = {
            "inputs_embeds": artifact.embedding()[tokens[:, past : past + count]].numpy(),
            "attention_mask": np.ones((1, past + count), np.int64),
            "position_ids": np.arange(past, past + count)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        past += count
        found = torch.from_numpy(request.infer(inputs)["logits"].copy()).flatten()
        error = (found - expected[past - 1]).square().mean().sqrt()
        assert error < 0.02 * expected.square().mean().sqrt()
