"""Opening an artifact: what it gives."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.errors import ConfigurationError

from .directories import EMBEDDING, fill, rewrite


def test_it_gives_what_the_manifest_says(directory: Path) -> None:
    manifest = Artifact.open(directory).manifest
    assert manifest.architecture == "NPULlamaForCausalLM"
    assert manifest.model.sliding_windows == (None, 8)
    assert manifest.limits.max_batch_size == 2


def test_its_directory_may_be_a_string(directory: Path) -> None:
    assert Artifact.open(str(directory)).directory == directory


def test_its_identity_is_the_manifests_checksum(directory: Path) -> None:
    text = (directory / "npu_artifact.json").read_bytes()
    assert Artifact.open(directory).identity == hashlib.sha256(text).hexdigest()


def test_identities_differ_where_a_file_does(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    fill(other, source="somebody/else")
    assert Artifact.open(other).identity != Artifact.open(directory).identity


def test_it_gives_paths_of_graphs_and_weights(directory: Path) -> None:
    artifact = Artifact.open(directory)
    assert artifact.graph_path("decoder") == directory / "decoder.xml"
    assert artifact.graph_path("lm_head") == directory / "lm_head.xml"
    assert artifact.weights_path == directory / "model.safetensors"


def test_an_unknown_graph_is_refused(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown graph 'decodr'.*'decoder'"):
        Artifact.open(directory).graph_path("decodr")


def test_it_gives_the_config(directory: Path) -> None:
    assert Artifact.open(directory).config() == {"model_type": "llama"}


def test_it_gives_embeddings(directory: Path) -> None:
    assert torch.equal(Artifact.open(directory).embedding(), EMBEDDING)


def test_embeddings_are_mapped_not_read(directory: Path) -> None:
    table = Artifact.open(directory).embedding()
    mapped = Path("/proc/self/maps").read_text()
    address = table.data_ptr()
    lines = [line.split() for line in mapped.splitlines() if "model.safetensors" in line]
    spans = [[int(each, 16) for each in line[0].split("-")] for line in lines]
    assert any(begin <= address < end for begin, end in spans)


def test_its_size_is_that_of_its_files(directory: Path) -> None:
    files = [path for path in directory.rglob("*") if path.is_file()]
    expected = sum(path.stat().st_size for path in files if path.name != "npu_artifact.json")
    assert Artifact.open(directory).size == expected


def test_files_that_are_not_listed_do_no_harm(directory: Path) -> None:
    (directory / "notes.txt").write_text("mine")
    (directory / "model.bin").write_bytes(b"pickle")
    Artifact.open(directory)


def test_a_directory_may_be_reached_by_a_link(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    Artifact.open(tmp_path / "link")


def test_a_link_within_the_directory_is_followed(directory: Path) -> None:
    (directory / "decoder.xml").rename(directory / "real.xml")
    (directory / "decoder.xml").symlink_to("real.xml")
    Artifact.open(directory)


def test_without_verifying_contents_are_not_read(directory: Path) -> None:
    (directory / "decoder.xml").write_text("<tan/>")
    Artifact.open(directory, verify=False)
    with pytest.raises(ConfigurationError, match="altered"):
        Artifact.open(directory)


def test_embeddings_of_another_shape_are_refused(directory: Path) -> None:
    rewrite(directory, lambda content: content["model"].update(vocab_size=11))
    with pytest.raises(ConfigurationError, match=r"\[10, 4\].*\[11, 4\]"):
        Artifact.open(directory).embedding()


def test_embeddings_that_are_not_there_are_refused(directory: Path) -> None:
    rewrite(directory, lambda content: content["embedding"].update(tensor="wte"))
    with pytest.raises(ConfigurationError, match="no tensor 'wte'"):
        Artifact.open(directory).embedding()


def test_a_config_that_is_no_object_is_refused(tmp_path: Path, directory: Path) -> None:
    artifact = Artifact.open(directory)
    for text in ("[1]", "{"):
        (directory / "config.json").write_text(text)
        with pytest.raises(ConfigurationError, match=r"config.json"):
            artifact.config()
