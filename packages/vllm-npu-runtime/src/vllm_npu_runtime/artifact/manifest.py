"""What `npu_artifact.json` says: the model's sizes, its limits, its graphs, and every file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Dtype = Literal["float32", "bfloat16", "float16"]
Weights = Literal["f32", "bf16", "f16", "int8", "int4"]
Positive = Annotated[int, Field(gt=0)]
PerCoreMode = Positive | dict[str, Positive]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Part):
    """One file.

    Attributes:
        size: in bytes.
        sha256: of its contents, in hexadecimal.
    """

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Port(_Part):
    """An input or output of a graph.

    Attributes:
        name: of the tensor.
        dtype: OpenVINO's name of it, as "f32" or "i64".
        shape: extents; -1 varies.
    """

    name: str
    dtype: str
    shape: tuple[Annotated[int, Field(ge=-1)], ...]


class Graph(_Part):
    """One graph, as OpenVINO IR whose constants lie in the weights file.

    Attributes:
        file: the IR's path in the directory.
        inputs: in order.
        outputs: in order. Keys and values are state of the graph, not among them.
    """

    file: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class ModelSizes(_Part):
    """What a session needs to know of the model.

    Attributes:
        hidden_size: numbers in a hidden state and in an embedding.
        vocab_size: logits per token.
        layers: with a KV cache.
        kv_heads: key/value heads of each layer.
        head_size: numbers in a key, and in a value.
        sliding_windows: of each layer, in tokens; None: it attends to all.
    """

    hidden_size: Positive
    vocab_size: Positive
    layers: Positive
    kv_heads: Positive
    head_size: Positive
    sliding_windows: tuple[Positive | None, ...]


class Limits(_Part):
    """What it was compiled for.

    Attributes:
        max_model_len: tokens of a request, prompt and output together.
        max_batch_size: requests at once, or such a number for each core mode.
        prefill_chunk_size: tokens of a prompt in one step, or such a number for each core mode.
        batch_tokens: most tokens of one request in a step where several run at once; None: no
            limit beyond `prefill_chunk_size`.
        block_size: tokens in which prefixes are told apart.
    """

    max_model_len: Positive
    max_batch_size: PerCoreMode
    prefill_chunk_size: PerCoreMode
    batch_tokens: Positive | None = None
    block_size: Positive = 16


class Embedding(_Part):
    """Where token embeddings are, which the host looks up.

    Attributes:
        tensor: name in the weights file, `[vocab_size, hidden_size]`.
        scale: what they are multiplied by.
    """

    tensor: str
    scale: float = 1.0


class Blob(_Part):
    """A graph that is compiled already, weights included.

    Attributes:
        file: path in the directory.
        fingerprint: of driver and device that compiled it, as `Driver.fingerprint` gives it; with
            another one it is of no use.
        config: SHA-256 of the configuration that it was compiled with, in hexadecimal.
    """

    file: str
    fingerprint: str
    config: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(_Part):
    """The whole of `npu_artifact.json`.

    Attributes:
        format_version: see `names.FORMAT_VERSION`.
        made_by: versions of the packages that made it, by name.
        source: name of the model that it was made from.
        architecture: vLLM's class for it, as "NPUQwen3ForCausalLM".
        device: for which it was compiled, as "openvino:CPU".
        dtype: of the model.
        weights: format of the matrices.
        model: sizes.
        limits: what it was compiled for.
        graphs: by name: "decoder" and "lm_head".
        embedding: token embeddings.
        blobs: of graphs, by their names, for the device that the artifact is for; may be empty.
        files: every other file of the directory, by path.
    """

    format_version: Positive
    made_by: dict[str, str]
    source: str
    architecture: str
    device: str
    dtype: Dtype
    weights: Weights
    model: ModelSizes
    limits: Limits
    graphs: dict[str, Graph]
    embedding: Embedding
    blobs: dict[str, Blob] = {}
    files: dict[str, FileRecord]
