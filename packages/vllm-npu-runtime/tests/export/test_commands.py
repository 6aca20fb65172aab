"""The commands `compile`, `inspect` and `verify`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.cli.app import app

from .conftest import Compile


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_it_compiles_and_says_how_to_serve(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    target = tmp_path / "two words"
    result = run(
        "compile", checkpoint("qwen3"), "-o", target, "--dtype", "float32", "--weights", "int8",
        "--max-batch-size", 3, "--prefill-chunk-size", "single=64,global4=256",
        "--max-model-len", 128, "--device", "openvino:CPU",
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert f"VLLM_NPU_DEVICE=openvino:CPU vllm serve '{target}'" in result.stdout
    assert "KiB" in result.stdout and " s." in result.stdout
    manifest = Artifact.open(target).manifest
    assert (manifest.dtype, manifest.weights, manifest.device) == (
        "float32",
        "int8",
        "openvino:CPU",
    )
    assert manifest.limits.max_batch_size == 3 and manifest.limits.max_model_len == 128
    assert manifest.limits.prefill_chunk_size == {"single": 64, "global4": 256}


def test_it_tells_the_stages(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    result = run("compile", checkpoint("llama"), "-o", tmp_path / "out")
    stages = [line.removesuffix(" …") for line in result.stderr.splitlines() if "…" in line]
    assert stages == ["checkpoint", "graphs", "weights", "checksums", "writing to disk"]


def test_it_compiles_for_an_npu_too(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NPU that is found, and whose pipeline runs on the host's processor."""
    from vllm_npu_runtime.export import request
    from vllm_npu_runtime.openvino.options import OpenVINOOptions

    of = OpenVINOOptions.of
    on_host = {"npuw_devices": "CPU", "npuw_online_pipeline": "NONE"}
    monkeypatch.setattr(OpenVINOOptions, "of", lambda options: of({**options, **on_host}))
    monkeypatch.setattr(request, "_device", lambda spec: (spec, ("float32",)))
    monkeypatch.setattr(request, "find", lambda spec: None)
    result = run(
        "compile", checkpoint("llama"), "-o", tmp_path / "out", "--device", "openvino:NPU", "--blob"
    )
    assert result.exit_code == 0, result.output
    stages = [line.removesuffix(" …") for line in result.stderr.splitlines() if "…" in line]
    assert stages[2:5] == ["weights", "compiling", "checksums"]
    manifest = Artifact.open(tmp_path / "out").manifest
    assert manifest.blobs["decoder"].file in manifest.files
    assert "Blob of decoder" in run("inspect", tmp_path / "out").stdout


def test_a_refusal_is_one_line_and_status_1(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    result = run("compile", checkpoint("llama"), "-o", tmp_path / "out", "--dtype", "f16")
    assert result.exit_code == 1 and result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if "…" not in line]
    assert len(errors) == 1 and "Unknown dtype 'f16'" in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["many", "1.5", "a=b", "=4", "a=1,", "a=1,a=2", "a=1=2", ""])
def test_sizes_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    result = run("compile", "anything", "-o", tmp_path / "out", "--prefill-chunk-size", text)
    assert result.exit_code == 1
    assert "give a whole number, or one for each core mode" in result.stderr


def test_inspect_is_a_table(compiled: Compile) -> None:
    artifact = compiled("exaone4")
    result = run("inspect", artifact.directory)
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    for text in (
        "Architecture NPUExaone4ForCausalLM",
        "Arithmetic float32",
        f"Identity {artifact.identity}",
        "2 layers of 16 tokens, 2 layers without",
        "Longest request 256 tokens",
        "Requests at once 8",
        "logits f32[?, 112]",
    ):
        assert text in shown


def test_inspect_is_json(compiled: Compile) -> None:
    artifact = compiled("llama")
    found = json.loads(run("inspect", artifact.directory, "--json").stdout)
    assert found["identity"] == artifact.identity and found["size"] == artifact.size
    assert found["manifest"] == artifact.manifest.model_dump(mode="json")


def test_inspect_refuses_what_is_no_artifact(tmp_path: Path) -> None:
    result = run("inspect", tmp_path)
    assert result.exit_code == 1 and "npu_artifact.json is missing" in result.stderr


def test_verify_reads_every_file(compiled: Compile) -> None:
    artifact = compiled("llama")
    result = run("verify", artifact.directory)
    assert result.exit_code == 0
    assert f"{len(artifact.manifest.files)} files" in result.stdout
    assert "all as they were written" in result.stdout


def test_verify_finds_a_changed_bit(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    run("compile", checkpoint("llama"), "-o", tmp_path / "out")
    content = bytearray((tmp_path / "out" / "decoder.xml").read_bytes())
    content[100] ^= 1
    (tmp_path / "out" / "decoder.xml").write_bytes(content)
    result = run("verify", tmp_path / "out")
    assert result.exit_code == 1 and "'decoder.xml' was altered" in result.stderr
    assert run("inspect", tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("device", ["reference", "openvino:CPU"])
@pytest.mark.parametrize("name", ["llama", "exaone", "exaone4"])
def test_verify_against_the_model(
    name: str, device: str, compiled: Compile, checkpoint: Callable[[str], Path]
) -> None:
    arguments = (compiled(name).directory, "--against", checkpoint(name), "--device", device)
    result = run("verify", *arguments)
    assert result.exit_code == 0, result.output
    assert "64 of 64 greedy tokens are the same" in result.stdout


def test_verify_against_another_model(compiled: Compile, checkpoint: Callable[[str], Path]) -> None:
    arguments = (compiled("llama-untied").directory, "--device", "reference", "--against")
    other = run("verify", *arguments, checkpoint("llama-wide"))
    assert other.exit_code == 1 and "doesn't compute what" in other.stderr
    family = run("verify", *arguments, checkpoint("qwen3"))
    assert family.exit_code == 1 and "of another family: NPUQwen3ForCausalLM" in family.stderr
