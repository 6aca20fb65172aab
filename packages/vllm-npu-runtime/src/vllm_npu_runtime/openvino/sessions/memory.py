"""Whether an artifact fits into a device's memory, before anything of it is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import torch

from vllm_npu_runtime.artifact.names import DECODER, LM_HEAD
from vllm_npu_runtime.doctor.sizes import in_words
from vllm_npu_runtime.drivers.base import KVBlock
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.errors import OutOfMemoryError
from vllm_npu_runtime.openvino.attention import BLOCK_SIZE
from vllm_npu_runtime.openvino.config import NAMES
from vllm_npu_runtime.openvino.devices import free_memory

if TYPE_CHECKING:
    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.openvino.sessions.decoder import Decoder
    from vllm_npu_runtime.sessions.base import SessionOptions


def weight_bytes(artifact: Artifact) -> int:
    """Bytes of the weights file that graphs point at, each once.

    Embeddings that no graph has are left out: the host looks them up in the file.
    """
    spans = set()
    for name in (DECODER, LM_HEAD):
        # The files were checked against the manifest.
        for _, element in ElementTree.iterparse(artifact.graph_path(name)):
            if element.tag == "data" and "offset" in element.attrib:
                spans.add((int(element.attrib["offset"]), int(element.attrib["size"])))
    return sum(size for _, size in spans)


def paged_slot_bytes(decoder: Decoder, options: SessionOptions, max_length: int) -> int:
    """Bytes of a slot's keys and values in OpenVINO's own layout.

    Args:
        decoder: paged.
        options: of the session.
        max_length: tokens of a slot.
    """
    manifest = decoder.artifact.manifest
    sizes = manifest.model
    kept = decoder.config["KV_CACHE_PRECISION"]
    dtype = next(each for each, name in NAMES.items() if name == kept)
    block = KVBlock(sizes.kv_heads, sizes.head_size, BLOCK_SIZE, dtype)
    block_bytes = OpenVINODriver().kv_block_bytes(
        decoder.device, block, getattr(torch, manifest.dtype), options.driver
    )
    return -(-max_length // BLOCK_SIZE) * sizes.layers * block_bytes


def check(decoder: Decoder, weights: int, slots: int, slot_bytes: int) -> None:
    """Refuse what doesn't fit into the memory that is free now.

    Args:
        decoder: of which artifact, on which device.
        weights: bytes.
        slots: how many.
        slot_bytes: of the keys and values of each.

    Raises:
        OutOfMemoryError: says how much is wanted for what, how much is free, and what to change.
    """
    free = free_memory(decoder.device)
    if weights + slots * slot_bytes <= free:
        return
    fitting = max(0, free - weights) // slot_bytes
    if weights >= free:
        mend = (
            "The weights alone don't fit: free some memory, or compile it with fewer bits "
            "(`--weights int8` or `int4`)."
        )
    elif fitting:
        mend = f"Ask for fewer slots ({fitting} fit: max_batch_size), or a shorter max_model_len."
    else:
        mend = "Not one slot fits (max_batch_size): ask for a shorter max_model_len."
    raise OutOfMemoryError(
        f"{decoder.name}: weights take {in_words(weights)}, and keys and values "
        f"{in_words(slots * slot_bytes)} ({slots} slots, {in_words(slot_bytes)} each); "
        f"{in_words(free)} are free. {mend}"
    )
