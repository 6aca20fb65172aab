"""Artifacts that aren't what was written are refused, each with what was found and the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.errors import ConfigurationError

from .directories import rewrite


def refusal(directory: Path, verify: bool = True) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Artifact.open(directory, verify)
    return str(caught.value)


def test_a_missing_directory(tmp_path: Path) -> None:
    text = refusal(tmp_path / "nowhere")
    assert "no such directory" in text and "vllm-npu compile" in text


def test_a_directory_without_a_manifest(tmp_path: Path) -> None:
    assert "npu_artifact.json is missing" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": "1"}', "\x00\xff"])
def test_a_manifest_that_is_none(directory: Path, text: str) -> None:
    (directory / "npu_artifact.json").write_text(text)
    assert "npu_artifact.json" in refusal(directory)


def test_a_manifest_that_is_a_pipe_or_a_link(directory: Path, tmp_path: Path) -> None:
    path = directory / "npu_artifact.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert "not a regular file" in refusal(directory)


def test_blobs_of_nothing(directory: Path) -> None:
    blob = {"file": "decodr.blob", "fingerprint": "any", "config": 64 * "0"}
    rewrite(directory, lambda content: content.update(blobs={"decodr": blob}))
    text = refusal(directory)
    assert "a blob of graph 'decodr', which there isn't" in text
    assert "lists no file 'decodr.blob' of blob 'decodr'" in text


def test_an_absurdly_large_manifest(directory: Path) -> None:
    with (directory / "npu_artifact.json").open("r+b") as file:
        file.truncate(2**30)
    assert f"{2**30} bytes" in refusal(directory)


def test_a_newer_format(directory: Path) -> None:
    # Also one whose other fields this version can't know.
    rewrite(directory, lambda content: content.update(format_version=2, shards=[]))
    text = refusal(directory)
    assert "format version 2" in text and "reads format version 1" in text
    assert "pip install --upgrade vllm-npu-runtime" in text


def test_an_older_format(directory: Path) -> None:
    rewrite(directory, lambda content: content.update(format_version=0))
    text = refusal(directory)
    assert "format version 0" in text and "Compile the model again" in text


def test_a_field_that_is_unknown(directory: Path) -> None:
    rewrite(directory, lambda content: content.update(run="code"))
    assert "run" in refusal(directory)


def test_fields_that_are_wrong_are_all_named(directory: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["dtype"] = "float8"
        del content["device"]
        content["limits"]["max_model_len"] = 0

    rewrite(directory, change)
    text = refusal(directory)
    assert "dtype" in text and "device" in text and "limits.max_model_len" in text


def test_a_file_that_is_missing(directory: Path) -> None:
    (directory / "lm_head.xml").unlink()
    assert "'lm_head.xml' is missing" in refusal(directory)


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_that_was_cut_short(directory: Path, verify: bool) -> None:
    path = directory / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 1)
    assert f"has {size - 1} bytes instead of {size}" in refusal(directory, verify)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "chat/template.jinja"])
def test_a_single_bit_that_changed(directory: Path, name: str) -> None:
    content = bytearray((directory / name).read_bytes())
    content[-1] ^= 1
    (directory / name).write_bytes(content)
    text = refusal(directory)
    assert f"'{name}' was altered" in text and "Compile the model again" in text


def test_a_checksum_that_is_not_one(directory: Path) -> None:
    rewrite(directory, lambda content: content["files"]["config.json"].update(sha256="0" * 63))
    assert "files.config.json.sha256" in refusal(directory)


def listed(name: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["files"][name] = content["files"]["config.json"]

    return change


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/../../secret", "./config.json", "a//b", "", ".", "..",
     "C:/secret", "a\\b", "a\0b"],
)  # fmt: skip
def test_a_path_that_leaves_the_directory(directory: Path, name: str) -> None:
    (directory.parent / "secret").write_text((directory / "config.json").read_text())
    rewrite(directory, listed(name))
    assert "leaves the directory or isn't a plain one" in refusal(directory)


def test_a_graph_whose_path_leaves_the_directory(directory: Path) -> None:
    rewrite(directory, lambda content: content["graphs"]["decoder"].update(file="../d.xml"))
    assert "lists no file '../d.xml' of graph 'decoder'" in refusal(directory)


def test_a_link_to_outside(directory: Path, tmp_path: Path) -> None:
    (directory / "config.json").rename(tmp_path / "config.json")
    (directory / "config.json").symlink_to(tmp_path / "config.json")
    assert "'config.json' is a link to outside" in refusal(directory)


def test_a_directory_within_that_is_a_link_to_outside(directory: Path, tmp_path: Path) -> None:
    (directory / "chat").rename(tmp_path / "chat")
    (directory / "chat").symlink_to(tmp_path / "chat")
    assert "'chat/template.jinja' is a link to outside" in refusal(directory)


def test_a_directory_in_place_of_a_file(directory: Path) -> None:
    (directory / "decoder.xml").unlink()
    (directory / "decoder.xml").mkdir()
    assert "'decoder.xml' is not a regular file" in refusal(directory)


@pytest.mark.parametrize("name", ["decoder", "lm_head"])
def test_a_graph_that_is_not_listed(directory: Path, name: str) -> None:
    rewrite(directory, lambda content: content["graphs"].pop(name))
    assert f"no graph '{name}'" in refusal(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "decoder.xml"])
def test_a_file_that_is_needed_and_not_listed(directory: Path, name: str) -> None:
    rewrite(directory, lambda content: content["files"].pop(name))
    assert f"lists no file '{name}'" in refusal(directory)


def test_windows_that_do_not_go_with_the_layers(directory: Path) -> None:
    rewrite(directory, lambda content: content["model"].update(layers=3))
    assert "sliding windows of 2 layers, and 3 layers" in refusal(directory)


def test_all_problems_are_told_at_once(directory: Path) -> None:
    (directory / "lm_head.xml").unlink()
    (directory / "decoder.xml").write_text("<tan/>")
    (directory / "config.json").write_text("{}")
    text = refusal(directory)
    assert "3 problems" in text
    assert all(name in text for name in ("lm_head.xml", "decoder.xml", "config.json"))


def test_endless_problems_are_cut_short(directory: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        record = content["files"]["config.json"]
        content["files"] |= {f"part-{number}": record for number in range(100)}

    rewrite(directory, change)
    text = refusal(directory)
    assert "100 problems" in text and "80 more" in text and len(text.splitlines()) < 30


def test_names_can_not_forge_lines(directory: Path) -> None:
    rewrite(directory, listed("x\n  2. 'all' is well"))
    assert len(refusal(directory).splitlines()) == 1


def test_the_manifest_itself_is_json(directory: Path) -> None:
    assert json.loads((directory / "npu_artifact.json").read_text())["format_version"] == 1
