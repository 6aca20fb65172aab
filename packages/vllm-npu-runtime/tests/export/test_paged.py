"""The decoder, with embedding and head or without, takes OpenVINO's paged attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .conftest import Compile
from .oracle import EXACT, logits_of, model_of, random_tokens

LENGTH = 80
BLOCKS = 3


def paged(artifact: Any, composed: bool) -> Any:
    """The decoder after the transformation, windows set by the layers' numbers."""
    import openvino as ov
    import openvino.opset15 as ops
    from openvino._offline_transformations import paged_attention_transformation

    core = ov.Core()
    decoder = core.read_model(artifact.graph_path("decoder"), artifact.weights_path)
    if composed:
        head = core.read_model(artifact.graph_path("lm_head"), artifact.weights_path)
        result = decoder.get_results()[0]
        hidden = result.input_value(0)
        size = hidden.get_partial_shape()[2].get_length()
        rows = ops.reshape(hidden, [-1, size], False)
        for user in list(head.input("hidden").get_target_inputs()):
            user.replace_source_output(rows.output(0))
        decoder.remove_result(result)
        decoder.add_results(head.get_results())
        table = ops.constant(artifact.embedding().numpy())
        ids = ops.parameter(ov.PartialShape([-1, -1]), ov.Type.i64, name="input_ids")
        ids.output(0).get_tensor().set_names({"input_ids"})
        looked_up = ops.gather(table, ids, ops.constant(0, dtype="int64"))
        embeds = decoder.input("inputs_embeds")
        for user in list(embeds.get_target_inputs()):
            user.replace_source_output(looked_up.output(0))
        decoder.remove_parameter(embeds.get_node())
        decoder.add_parameters([ids])
        decoder.validate_nodes_and_infer_types()
    paged_attention_transformation(decoder)
    found = {}
    for node in decoder.get_ordered_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            found[int(node.input_value(3).get_node().get_friendly_name().split(".")[1])] = node
    windows = artifact.manifest.model.sliding_windows
    assert sorted(found) == list(range(len(windows)))
    for layer, window in enumerate(windows):
        if window is not None:
            number = ops.constant(np.int32(window))
            found[layer].input(10).replace_source_output(number.output(0))
    return core.compile_model(decoder, "CPU", EXACT).create_infer_request()


@pytest.mark.parametrize("composed", [False, True], ids=["decoder", "whole"])
@pytest.mark.parametrize("name", ["llama", "hyperclovax", "exaone4", "qwen2-windows", "qwen3"])
def test_packed_steps_of_two_requests(
    name: str, composed: bool, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    import openvino as ov

    artifact = compiled(name)
    request = paged(artifact, composed)
    held: list[Any] = []
    for port in request.get_compiled_model().inputs:
        if "cache" in port.get_any_name():
            extents = [each.get_length() for each in list(port.get_partial_shape())[1:]]
            held.append(ov.Tensor(port.get_element_type(), ov.Shape([2 * BLOCKS, *extents])))
            request.set_tensor(port, held[-1])
    tokens = random_tokens(artifact, 2, LENGTH)
    model = model_of(checkpoint(name))
    expected = logits_of(model, tokens)
    past, found = [0, 0], [[], []]  # type: ignore[var-annotated]
    for counts in ((1, 30), (40, 1), (38, 48), (1, 1)):
        parts = [tokens[row, past[row] : past[row] + counts[row]] for row in (0, 1)]
        packed = torch.cat(parts)
        first = artifact.embedding()[packed].numpy()
        inputs: dict[str, Any] = {
            "position_ids": np.concatenate(
                [np.arange(past[row], past[row] + counts[row]) for row in (0, 1)]
            ),
            "past_lens": np.array(past, np.int32),
            "subsequence_begins": np.array([0, counts[0], sum(counts)], np.int32),
            "block_indices": np.arange(2 * BLOCKS, dtype=np.int32)[::-1].copy(),
            "block_indices_begins": np.array([0, BLOCKS, 2 * BLOCKS], np.int32),
            "max_context_len": np.array(max(map(sum, zip(past, counts, strict=True))), np.int32),
        }
        inputs |= {"input_ids": packed.numpy()} if composed else {"inputs_embeds": first}
        output = torch.from_numpy(next(iter(request.infer(inputs).values())).copy())
        output = output.view(sum(counts), -1)
        for row, part in enumerate(output.split(list(counts))):
            found[row].append(part)
        past = [one + other for one, other in zip(past, counts, strict=True)]
    values = torch.stack([torch.cat(parts) for parts in found])
    if not composed:
        from vllm_npu_runtime.export.torch_model import logits

        values = logits(model, values)
    assert (values - expected).abs().max() < 1e-4
