"""Whether a directory holds what its manifest says; every problem, not the first alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from vllm_npu_runtime.artifact.manifest import FileRecord, Manifest
from vllm_npu_runtime.artifact.names import (
    CONFIG,
    DECODER,
    FORMAT_VERSION,
    LM_HEAD,
    MANIFEST,
    WEIGHTS,
)
from vllm_npu_runtime.compile_cache.files import checksum
from vllm_npu_runtime.compile_cache.records import DamagedError, one_line, read_text
from vllm_npu_runtime.errors import ConfigurationError

ANEW = "Compile the model again with `vllm-npu compile`, or copy the whole directory again."
MOST_SHOWN = 20


class _Version(BaseModel):
    # Of every format there will be, whatever else that holds.
    model_config = ConfigDict(strict=True, extra="ignore")

    format_version: int


def refusal(directory: Path, problems: list[str]) -> ConfigurationError:
    """All problems of an artifact as one error."""
    if len(problems) == 1:
        return ConfigurationError(f"Artifact {directory}: {problems[0]}")
    shown = problems[:MOST_SHOWN]
    lines = [f"  {number}. {text}" for number, text in enumerate(shown, 1)]
    if len(problems) > len(shown):
        lines.append(f"  … and {len(problems) - len(shown)} more.")
    return ConfigurationError(
        f"Artifact {directory} has {len(problems)} problems:\n" + "\n".join(lines)
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory.

    Raises:
        ConfigurationError: there is none, it is damaged, or of a format that isn't read here.
    """
    if not directory.is_dir():
        raise ConfigurationError(
            f"Artifact {directory}: there is no such directory. "
            "`vllm-npu compile MODEL -o DIR` makes one."
        )
    try:
        text = read_text(directory / MANIFEST)
    except DamagedError as error:
        raise refusal(directory, [f"{error}, so this is no artifact. {ANEW}"]) from None
    except OSError as error:
        raise refusal(directory, [f"{MANIFEST} can't be read: {error.strerror}."]) from error
    try:
        found = _Version.model_validate_json(text).format_version
    except ValidationError as error:
        raise refusal(directory, _faults(error)) from None
    if found != FORMAT_VERSION:
        mend = (
            "Update vllm-npu-runtime: `pip install --upgrade vllm-npu-runtime`."
            if found > FORMAT_VERSION
            else "Compile the model again with `vllm-npu compile`."
        )
        raise refusal(
            directory,
            [
                f"{MANIFEST} has format version {found}; this version of vllm-npu-runtime reads "
                f"format version {FORMAT_VERSION}. {mend}"
            ],
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise refusal(directory, _faults(error)) from None


def problems(
    directory: Path,
    manifest: Manifest,
    hashes: bool = True,
    done: Callable[[int], object] = lambda size: None,
) -> Iterator[str]:
    """What is wrong with a directory, a sentence each.

    Args:
        directory: of the artifact.
        manifest: that lies in it.
        hashes: read every file and compare its SHA-256 too.
        done: called with the bytes of each file that was read.
    """
    yield from _contradictions(manifest)
    root = directory.resolve()
    for name, record in manifest.files.items():
        shown = one_line(name)
        if not _is_plain(name):
            yield f"path '{shown}' leaves the directory or isn't a plain one. {ANEW}"
            continue
        path = directory / name
        if not path.resolve().is_relative_to(root):
            yield (
                f"'{shown}' is a link to outside the directory, which is never followed. Put "
                "the file itself there; `hf download --local-dir DIR` writes no links."
            )
            continue
        yield from _file_problems(path, shown, record, hashes)
        done(record.size)


def _is_plain(name: str) -> bool:
    """Whether it is a relative path that goes down only, written in one way."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and PurePosixPath(name).as_posix() == name
        and not name.startswith("/")
        and ".." not in parts
        and not any(character in name for character in "\0\\")
        and ":" not in parts[0]
    )


def _file_problems(path: Path, shown: str, record: FileRecord, hashes: bool) -> Iterator[str]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            yield f"'{shown}' is not a regular file. {ANEW}"
        elif found.st_size != record.size:
            yield f"'{shown}' has {found.st_size} bytes instead of {record.size}. {ANEW}"
        elif hashes and (digest := checksum(path)) != record.sha256:
            yield (
                f"'{shown}' was altered: its SHA-256 is {digest[:16]}… instead of "
                f"{record.sha256[:16]}…. {ANEW}"
            )
        elif not hashes and not os.access(path, os.R_OK):
            yield f"'{shown}' can't be read: permission denied."
    except FileNotFoundError:
        yield f"'{shown}' is missing. {ANEW}"
    except OSError as error:
        yield f"'{shown}' can't be read: {error.strerror}."


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Where a manifest, well formed, doesn't describe an artifact."""
    for name in (DECODER, LM_HEAD):
        if name not in manifest.graphs:
            yield f"{MANIFEST} lists no graph '{name}', which every model needs. {ANEW}"
    needed = {CONFIG: "", WEIGHTS: ""}
    needed |= {graph.file: f" of graph '{name}'" for name, graph in manifest.graphs.items()}
    needed |= {blob.file: f" of blob '{one_line(name)}'" for name, blob in manifest.blobs.items()}
    for name in sorted(manifest.blobs.keys() - manifest.graphs.keys()):
        yield f"{MANIFEST} lists a blob of graph '{one_line(name)}', which there isn't. {ANEW}"
    for file, of in needed.items():
        if file not in manifest.files:
            yield f"{MANIFEST} lists no file '{one_line(file)}'{of}. {ANEW}"
    if MANIFEST in manifest.files:
        yield f"{MANIFEST} lists itself. {ANEW}"
    windows, layers = len(manifest.model.sliding_windows), manifest.model.layers
    if windows != layers:
        yield f"{MANIFEST} has sliding windows of {windows} layers, and {layers} layers. {ANEW}"


def _faults(error: ValidationError) -> list[str]:
    """Sentences of what pydantic found."""
    found = []
    for each in error.errors(include_url=False, include_input=False):
        where = ".".join(map(str, each["loc"]))
        found.append(f"{MANIFEST}{f', {where}' if where else ''}: {one_line(each['msg'])}. {ANEW}")
    return found
