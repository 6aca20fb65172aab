"""What doesn't fit into memory is refused before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.doctor.sizes import in_words
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.errors import OutOfMemoryError
from vllm_npu_runtime.sessions.base import Session, SessionOptions
from vllm_npu_runtime.sessions.opening import open_session

Free = Callable[[int], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Sets how many bytes are free on every device."""
    from vllm_npu_runtime.openvino.sessions import memory

    def make(size: int) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda device: size)

    return make


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is compiled, or read from a blob, fails the test."""
    from vllm_npu_runtime.openvino.sessions.decoder import Decoder

    def fail(decoder: Decoder) -> None:
        pytest.fail(f"{decoder.name} was opened")

    monkeypatch.setattr(Decoder, "open", fail)


@pytest.fixture
def weights(compiled: Callable[..., Artifact]) -> int:
    """Bytes of the artifact's weights that a graph has."""
    from vllm_npu_runtime.openvino.sessions.memory import weight_bytes

    return weight_bytes(compiled())


def test_weights_are_those_of_the_graphs(
    compiled: Callable[..., Artifact], checkpoint: Callable[[str], Path], weights: int
) -> None:
    """In float32, all of the checkpoint's but the embeddings, and some small constants."""
    tensors = load_file(checkpoint("llama") / "model.safetensors")
    assert "lm_head.weight" in tensors
    del tensors["model.embed_tokens.weight"]
    wanted = 4 * sum(tensor.numel() for tensor in tensors.values())
    assert wanted <= weights < 1.05 * wanted


@pytest.mark.parametrize("kind", ["llama", "exaone4"])
@pytest.mark.parametrize("kv", [None, torch.float16, torch.uint8, torch.uint4])  # type: ignore[attr-defined]
def test_slots_are_known_before(
    opened: Callable[..., Session], free: Free, kind: str, kv: torch.dtype | None
) -> None:
    """What they take is what the compiled model's caches take, scales included."""
    session = opened("openvino:CPU", kind, slots=3, kv_cache_dtype=kv)
    free(session.memory)
    opened("openvino:CPU", kind, slots=3, kv_cache_dtype=kv)
    free(session.memory - 1)
    with pytest.raises(OutOfMemoryError):
        opened("openvino:CPU", kind, slots=3, kv_cache_dtype=kv)


def test_slots_without_memory(
    opened: Callable[..., Session], free: Free, weights: int, nothing_compiled: None
) -> None:
    """The error names what each part takes, what is free, and how many fit."""
    # 640 tokens, 2 layers, keys and values of 2 heads of 32 numbers in float32
    slot = 640 * 2 * 2 * 2 * 32 * 4
    have = weights + 3 * slot + slot // 2
    free(have)
    with pytest.raises(OutOfMemoryError) as caught:
        opened("openvino:CPU", slots=4)
    said = str(caught.value)
    assert f"weights take {in_words(weights)}" in said
    assert f"keys and values {in_words(4 * slot)} (4 slots, {in_words(slot)} each)" in said
    assert f"{in_words(have)} are free" in said
    assert "fewer slots (3 fit: max_batch_size)" in said and "shorter max_model_len" in said


def test_not_one_slot(
    opened: Callable[..., Session], free: Free, weights: int, nothing_compiled: None
) -> None:
    """A shorter length would do; fewer slots wouldn't."""
    free(weights + 1000)
    with pytest.raises(OutOfMemoryError, match=r"Not one slot fits .* shorter max_model_len"):
        opened("openvino:CPU", slots=4)


def test_weights_alone(
    opened: Callable[..., Session], free: Free, weights: int, nothing_compiled: None
) -> None:
    """Fewer bits would do."""
    free(weights)
    with pytest.raises(OutOfMemoryError, match=r"weights alone don't fit.*--weights int8"):
        opened("openvino:CPU", slots=1)


def test_one_that_fits_opens(compiled: Callable[..., Artifact], free: Free, weights: int) -> None:
    """With the length that the error asked for."""
    free(weights + 64 * 2 * 2 * 2 * 32 * 4)
    options = SessionOptions(1, max_length=64)
    open_session(compiled().directory, "openvino:CPU", options).close()


def test_static_pipeline(
    compiled: Callable[..., Artifact], free: Free, nothing_compiled: None
) -> None:
    """Its two graphs have keys and values of their own, in float16."""
    from vllm_npu_runtime.openvino.sessions.memory import weight_bytes

    artifact = compiled(device="openvino:NPU", max_model_len=200)
    weights, cache = weight_bytes(artifact), 2 * 200 * 2 * 2 * 2 * 32 * 2
    free(weights + cache - 1)
    options = SessionOptions(1, driver={"npuw_devices": "CPU"})
    with pytest.raises(OutOfMemoryError) as caught:
        OpenVINODriver().open_session(artifact.directory, "NPU", options)
    assert f"keys and values {in_words(cache)}" in str(caught.value)
    assert "shorter max_model_len" in str(caught.value)
