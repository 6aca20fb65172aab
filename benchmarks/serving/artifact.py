"""The checkpoint compiled ahead of time, and the same graphs as openvino_genai's stateful pipeline
takes them: ids in place of embeddings, and the head at the end.

`python -m benchmarks.serving.artifact CHECKPOINT` writes both, in our environment.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

VERSION = 1
"""Raise it when what is written changes."""
LIMITS = {"max_batch_size": 32, "max_model_len": 2048, "prefill_chunk_size": 1024}


def where(checkpoint: Path) -> Path:
    """Directory of the artifact, beside the checkpoint."""
    return checkpoint.with_name(f"{checkpoint.name}-artifact-{VERSION}")


def stateful(checkpoint: Path) -> Path:
    """Directory of the same graphs for openvino_genai."""
    return checkpoint.with_name(f"{checkpoint.name}-stateful-{VERSION}")


def joined(directory: Path) -> Any:
    """An artifact's graphs in one: `input_ids`, `attention_mask`, `position_ids` and `beam_idx` to
    `logits`."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    from vllm_npu_runtime.artifact.directory import Artifact
    from vllm_npu_runtime.artifact.names import DECODER, LM_HEAD

    artifact = Artifact.open(directory)
    core = ov.Core()
    decoder, head = (
        core.read_model(artifact.graph_path(name), artifact.weights_path)
        for name in (DECODER, LM_HEAD)
    )
    table = artifact.embedding()
    ids = ops.parameter(ov.PartialShape([-1, -1]), np.int64, name="input_ids")
    ids.output(0).get_tensor().set_names({"input_ids"})
    rows = ops.constant(table.float().numpy())
    embeddings = ops.gather(rows, ids, ops.constant(0, dtype=np.int64))
    old = decoder.input("inputs_embeds").get_node()
    old.output(0).replace(embeddings.output(0))
    decoder.remove_parameter(old)
    decoder.add_parameters([ids])
    # The head takes rows of tokens; here it gets a rank more.
    head.reshape(ov.PartialShape([-1, -1, table.shape[1]]))
    (result,) = decoder.get_results()
    head.inputs[0].get_node().output(0).replace(result.input_value(0))
    logits = head.get_results()[0].input_value(0)
    decoder.remove_result(result)
    decoder.add_results([ops.result(logits)])
    decoder.outputs[0].get_tensor().set_names({"logits"})
    decoder.validate_nodes_and_infer_types()
    return decoder


def ensure(checkpoint: Path, alone: bool = False) -> None:
    """Write both directories, or the artifact alone, where they aren't there."""
    from vllm_npu_runtime.export.compile import compile_artifact

    artifact = where(checkpoint)
    if not artifact.exists():
        compile_artifact(checkpoint, artifact, **LIMITS)  # type: ignore[arg-type]
    target = stateful(checkpoint)
    if not alone and not target.exists():
        import openvino as ov

        from benchmarks.serving import export

        unfinished = target.with_name(target.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        # The tokenizer that the pipeline opens is that of the other export.
        ignored = shutil.ignore_patterns("openvino_model.*")
        shutil.copytree(export.where(checkpoint), unfinished, ignore=ignored)
        ov.save_model(joined(artifact), unfinished / "openvino_model.xml", compress_to_fp16=False)
        unfinished.rename(target)


if __name__ == "__main__":
    ensure(Path(sys.argv[1]), alone="--alone" in sys.argv)
