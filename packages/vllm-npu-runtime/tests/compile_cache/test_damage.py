"""What is damaged, foreign or stale is named, removed, and compiled anew."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_npu_runtime.compile_cache import CompileCache, manifest, records
from vllm_npu_runtime.compile_cache.key import canonical

from .graphs import NAME, saved

Content = dict[str, Any]


def change(directory: Path, how: Callable[[Content], object], checked: bool = True) -> None:
    """Change a manifest; `checked`: as somebody would who knows of its checksum."""
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    how(content)
    if checked:
        del content["sha256"]
        content["sha256"] = hashlib.sha256(canonical(content)).hexdigest()
    path.write_text(json.dumps(content))


def refused(cache: CompileCache, lines: list[str]) -> str:
    """The one line that a graph in vain looked for leaves; the graph is gone."""
    del lines[:]
    assert cache.find(NAME) is None
    (line,) = lines
    assert f"{cache.directory / NAME} is discarded" in line and "compiled anew" in line
    assert "\n" not in line and len(line) < 1000
    assert not os.path.lexists(cache.directory / NAME)
    assert sorted(os.listdir(cache.directory)) == ["key.json"]
    return line


def truncate(directory: Path) -> None:
    (directory / "graph.bin").write_bytes(b"a comp")


def flip(directory: Path) -> None:
    (directory / "graph.bin").write_bytes(b"a compiled graqh")


def lose(directory: Path) -> None:
    (directory / "parts" / "constants.bin").unlink()


def add(directory: Path) -> None:
    (directory / "parts" / "more.bin").touch()


def link_file(directory: Path) -> None:
    (directory / "graph.bin").rename(directory.parent.parent / "graph.bin")
    (directory / "graph.bin").symlink_to(directory.parent.parent / "graph.bin")


def link_directory(directory: Path) -> None:
    (directory / "parts").rename(directory.parent.parent / "parts")
    (directory / "parts").symlink_to(directory.parent.parent / "parts")


def pipe(directory: Path) -> None:
    (directory / "graph.bin").unlink()
    os.mkfifo(directory / "graph.bin")


def lose_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (truncate, "file 'graph.bin' has 6 bytes instead of 16"),
        (flip, "file 'graph.bin' doesn't have its checksum"),
        (lose, "file 'parts/constants.bin' is missing"),
        (add, "file 'parts/more.bin' doesn't belong there"),
        (link_file, "'graph.bin' is not a regular file"),
        (link_directory, "'parts' is not a regular file"),
        (pipe, "'graph.bin' is not a regular file"),
        (lose_manifest, "manifest.json is missing"),
    ],
)
def test_changed_files_are_noticed(
    cache: CompileCache, lines: list[str], damage: Callable[[Path], None], problem: str
) -> None:
    damage(saved(cache))
    assert problem in refused(cache, lines)
    saved(cache)  # and the graph can be saved again


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"null", "Input should be an object"),
        (b"{}", "format: Field required"),
        (b'{"format": "1", "suite": "0"}', "format: Input should be a valid integer"),
    ],
)
def test_a_manifest_that_is_none_is_noticed(
    cache: CompileCache, lines: list[str], text: bytes, problem: str
) -> None:
    (saved(cache) / "manifest.json").write_bytes(text)
    assert problem in refused(cache, lines)


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        (lambda c: c.update(extra=1), "extra: Extra inputs"),
        (lambda c: c.pop("outputs"), "outputs: Field required"),
        (lambda c: c.update(inputs={}), "inputs: Input should be a valid"),
        (lambda c: c["inputs"][0].update(kind="gift"), "inputs.0.kind"),
        (lambda c: c["inputs"][0].update(shape=["64"]), "inputs.0.shape.0"),
        (lambda c: c["inputs"][0].update(shape=[True]), "inputs.0.shape.0"),
        (lambda c: c["inputs"][0].update(shape=[1.5]), "inputs.0.shape.0"),
        (lambda c: c["inputs"][0].update(shape=[-1]), "inputs.0.shape.0"),
        (lambda c: c["inputs"][0].update(shape=[2**63]), "inputs.0.shape.0"),
        (lambda c: c["inputs"][0].update(shape=[1] * 65), "inputs.0.shape"),
        (lambda c: c["inputs"][0].update(shape=None), "inputs.0.shape"),
        (lambda c: c["inputs"][0].update(dtype=7), "inputs.0.dtype"),
        (lambda c: c["inputs"][0].update(dtype="float31"), "no dtype 'float31'"),
        (lambda c: c["inputs"][0].update(dtype="load"), "no dtype 'load'"),
        (lambda c: c["inputs"][0].update(dtype="double"), "no dtype 'double'"),
        (lambda c: c["inputs"].append(c["inputs"][0]), "have one name"),
        (lambda c: c["files"]["graph.bin"].update(size="16"), "files.graph.bin.size"),
        (lambda c: c["files"]["graph.bin"].update(size=-1), "files.graph.bin.size"),
        (lambda c: c["files"]["graph.bin"].update(size=2**70), "files.graph.bin.size"),
        (lambda c: c["files"]["graph.bin"].update(sha256="00"), "files.graph.bin.sha256"),
        (lambda c: c.update(graph="tokens=32"), "it is graph 'tokens=32'"),
        (lambda c: c.update(graph=""), "it is graph ''"),
        (lambda c: c.update(format=2), "its format is 2, and 1 is read here"),
        (lambda c: c.update(suite="0.0.9"), "version 0.0.9 wrote it"),
        (lambda c: c.update(suite="9\n9\x1b[31m"), "version 9 9\N{REPLACEMENT CHARACTER}[31m"),
    ],
)
def test_a_manifest_with_wrong_values_is_noticed(
    cache: CompileCache, lines: list[str], how: Callable[[Content], object], problem: str
) -> None:
    change(saved(cache), how)
    assert problem in refused(cache, lines)


@pytest.mark.parametrize(
    "name", ["../graph.bin", "/etc/passwd", "parts/../graph.bin", "..", ".", "", "a//b", "a\0b"]
)
def test_a_manifest_that_names_files_elsewhere_is_noticed(
    cache: CompileCache, lines: list[str], name: str
) -> None:
    change(saved(cache), lambda c: c["files"].update({name: c["files"].pop("graph.bin")}))
    assert "is no path within the directory" in refused(cache, lines)


def test_a_change_in_the_manifest_itself_is_noticed(cache: CompileCache, lines: list[str]) -> None:
    change(saved(cache), lambda c: c["inputs"][0].update(shape=[65]), checked=False)
    assert "manifest.json doesn't have its checksum" in refused(cache, lines)


def test_the_checks_above_accept_an_untouched_manifest(
    cache: CompileCache, lines: list[str]
) -> None:
    change(saved(cache), lambda c: None)
    assert cache.find(NAME) is not None and lines == []


def test_an_absurdly_large_manifest_is_not_read(
    cache: CompileCache, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = saved(cache)
    monkeypatch.setattr(records, "LARGEST", 100)
    assert "100 is the most" in refused(cache, lines)
    assert not directory.exists()


def test_a_manifest_that_is_a_link_is_not_followed(
    cache: CompileCache, lines: list[str], tmp_path: Path
) -> None:
    path = saved(cache) / "manifest.json"
    path.rename(tmp_path / "manifest.json")
    path.symlink_to(tmp_path / "manifest.json")
    assert "'manifest.json' is not a regular file" in refused(cache, lines)


def test_a_graph_that_is_a_link_is_not_followed_and_what_it_leads_to_stays(
    cache: CompileCache, lines: list[str], tmp_path: Path
) -> None:
    directory = saved(cache)
    directory.rename(tmp_path / NAME)
    directory.symlink_to(tmp_path / NAME)
    assert "it is not a directory" in refused(cache, lines)
    assert (tmp_path / NAME / "manifest.json").exists()


def test_a_graph_under_another_graphs_name_is_noticed(
    cache: CompileCache, lines: list[str]
) -> None:
    saved(cache, "tokens=32").rename(cache.directory / NAME)
    assert "it is graph 'tokens=32'" in refused(cache, lines)


def test_a_graph_of_an_older_format_is_not_used(
    cache: CompileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(cache)
    monkeypatch.setattr(manifest, "FORMAT", 2)
    assert cache.find(NAME) is None


def test_a_damaged_graph_that_cannot_be_removed_is_still_not_used(
    cache: CompileCache, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate(saved(cache))

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert cache.find(NAME) is None
    assert len(lines) == 1 and (cache.directory / NAME).exists()
