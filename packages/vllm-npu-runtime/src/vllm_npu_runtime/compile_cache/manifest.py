"""What a saved graph's directory has to hold: the program's bindings, and checksums of files."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vllm_npu_runtime import __version__
from vllm_npu_runtime.compile_cache.files import checksum, sizes_of, sync_all
from vllm_npu_runtime.compile_cache.key import FORMAT, canonical
from vllm_npu_runtime.compile_cache.names import file_name
from vllm_npu_runtime.compile_cache.records import (
    DamagedError,
    Record,
    one_line,
    parse,
    read_text,
)
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.program import Binding, Kind

if TYPE_CHECKING:
    import torch

    from vllm_npu_runtime.program import Program

MANIFEST = "manifest.json"


def _within(path: str) -> str:
    parts = PurePosixPath(path).parts
    plain = path and "\0" not in path and PurePosixPath(path).as_posix() == path
    if not plain or ".." in parts or path.startswith("/") or path in (".", MANIFEST):
        raise ValueError(f"{one_line(path)!r} is no path within the directory")
    return path


Size = Annotated[int, Field(ge=0, lt=2**63)]
Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Within = Annotated[str, AfterValidator(_within)]


class BindingRecord(Record):
    """A `Binding`."""

    name: str
    kind: Kind
    shape: Annotated[tuple[Size | None, ...], Field(max_length=64)]
    dtype: str

    @classmethod
    def of(cls, binding: Binding) -> BindingRecord:
        """The record of a binding."""
        dtype = str(binding.dtype).removeprefix("torch.")
        return cls(name=binding.name, kind=binding.kind, shape=binding.shape, dtype=dtype)

    def binding(self) -> Binding:
        """The binding.

        Raises:
            DamagedError: torch has no such dtype.
        """
        return Binding(self.name, self.kind, self.shape, _dtype(self.dtype))


class FileRecord(Record):
    """A file's size in bytes, and its SHA-256."""

    size: Size
    sha256: Checksum


class Manifest(Record):
    """`manifest.json`, written last.

    Attributes:
        format: of the cache.
        suite: version that wrote it.
        graph: name under which it was saved.
        program: the program's own name.
        inputs: of the program.
        outputs: of the program.
        files: all others in the directory, by their paths within.
        sha256: of all of the above.
    """

    format: int
    suite: str
    graph: str
    program: str
    inputs: tuple[BindingRecord, ...]
    outputs: tuple[BindingRecord, ...]
    files: dict[Within, FileRecord]
    sha256: str = ""

    def checksum(self) -> str:
        """What `sha256` should be."""
        return hashlib.sha256(
            canonical(self.model_dump(mode="json", exclude={"sha256"}))
        ).hexdigest()


class _Versions(BaseModel):
    # Of every format there will be, whatever else that holds.
    model_config = ConfigDict(strict=True, extra="ignore")

    format: int
    suite: str


def seal(directory: Path, graph: str, program: Program) -> None:
    """Write the manifest of what is in a directory, and wait until all of it is on the disk.

    Raises:
        DamagedError: there are links, or a file with the manifest's name.
        OSError: it can't be written.
        ConfigurationError: the bindings can't be written down.
    """
    sizes = sizes_of(directory)
    if MANIFEST in sizes:
        raise DamagedError(f"the driver wrote a file {MANIFEST}, which is the cache's own")
    try:
        manifest = Manifest(
            format=FORMAT,
            suite=__version__,
            graph=graph,
            program=program.name,
            inputs=tuple(map(BindingRecord.of, program.inputs)),
            outputs=tuple(map(BindingRecord.of, program.outputs)),
            files={
                name: FileRecord(size=size, sha256=checksum(directory / name))
                for name, size in sizes.items()
            },
        )
    except ValueError as error:
        raise ConfigurationError(f"the program can't be written down: {error}") from error
    whole = manifest.model_copy(update={"sha256": manifest.checksum()})
    (directory / MANIFEST).write_text(whole.model_dump_json(indent=1), encoding="utf-8")
    sync_all(directory)


def verified(directory: Path, suite: str = __version__) -> Manifest:
    """The manifest of a directory that holds what it says, and nothing else.

    Raises:
        DamagedError: it doesn't, or a version of the suite other than `suite` wrote it.
        FileNotFoundError: there is no such directory.
        OSError: something can't be read.
    """
    sizes = sizes_of(directory)
    manifest = _read(directory / MANIFEST, suite)
    if file_name(manifest.graph or "?") != directory.name:
        raise DamagedError(f"it is graph '{one_line(manifest.graph)}'")
    del sizes[MANIFEST]
    for name in sorted(sizes.keys() ^ manifest.files.keys()):
        what = "is missing" if name in manifest.files else "doesn't belong there"
        raise DamagedError(f"file '{one_line(name)}' {what}")
    for name, file in manifest.files.items():
        if sizes[name] != file.size:
            raise DamagedError(
                f"file '{one_line(name)}' has {sizes[name]} bytes instead of {file.size}"
            )
        if checksum(directory / name) != file.sha256:
            raise DamagedError(f"file '{one_line(name)}' doesn't have its checksum")
    return manifest


def _read(path: Path, suite: str) -> Manifest:
    text = read_text(path)
    versions = parse(path.name, text, _Versions)
    if versions.format != FORMAT:
        raise DamagedError(f"its format is {versions.format}, and {FORMAT} is read here")
    if versions.suite != suite:
        raise DamagedError(f"version {one_line(versions.suite)} wrote it, and this is {suite}")
    manifest = parse(path.name, text, Manifest)
    if manifest.sha256 != manifest.checksum():
        raise DamagedError(f"{path.name} doesn't have its checksum")
    for bindings in (manifest.inputs, manifest.outputs):
        if len({binding.name for binding in bindings}) < len(bindings):
            raise DamagedError(f"{path.name}: two inputs or outputs have one name")
    return manifest


def _dtype(name: str) -> torch.dtype:
    import torch

    found = getattr(torch, name, None)
    # Aliases aren't written, so they aren't read.
    if not isinstance(found, torch.dtype) or str(found) != f"torch.{name}":
        raise DamagedError(f"{MANIFEST}: torch has no dtype '{one_line(name)}'")
    return found
