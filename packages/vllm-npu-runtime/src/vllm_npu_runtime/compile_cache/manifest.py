"""What an entry of the cache says of itself, checked before anything in it is used."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vllm_npu_runtime import __version__
from vllm_npu_runtime.compile_cache.key import FORMAT
from vllm_npu_runtime.program import Binding, Kind, Program

NAME = "manifest.json"
LARGEST = 64 << 20
"""Bytes of a manifest; one that is larger is no manifest."""


class Damaged(Exception):
    """An entry that can't be used; the text says why."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class BindingEntry(_Strict):
    """A `Binding`."""

    name: str
    kind: Annotated[Kind, Field(strict=False)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0)] | None, ...], Field(strict=False)]
    dtype: str

    @classmethod
    def of(cls, binding: Binding) -> BindingEntry:
        """The entry of a binding."""
        dtype = str(binding.dtype).removeprefix("torch.")
        return cls(name=binding.name, kind=binding.kind, shape=binding.shape, dtype=dtype)

    def binding(self) -> Binding:
        """The binding.

        Raises:
            Damaged: there is no such dtype.
        """
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise Damaged(f"there is no dtype '{self.dtype[:40]}'")
        return Binding(self.name, self.kind, self.shape, dtype)


class FileEntry(_Strict):
    """A file beside the manifest."""

    size: Annotated[int, Field(ge=0)]
    sha256: str


class Manifest(_Strict):
    """One entry: a program's bindings, and the driver's files."""

    format: int
    suite: str
    program: str
    inputs: Annotated[tuple[BindingEntry, ...], Field(strict=False)]
    outputs: Annotated[tuple[BindingEntry, ...], Field(strict=False)]
    files: dict[str, FileEntry]

    @classmethod
    def of(cls, program: Program, directory: Path) -> Manifest:
        """The manifest of a program whose files a driver has written to `directory`."""
        files = {
            path.relative_to(directory).as_posix(): FileEntry(
                size=path.stat().st_size, sha256=digest(path)
            )
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }
        return cls(
            format=FORMAT,
            suite=__version__,
            program=program.name,
            inputs=tuple(map(BindingEntry.of, program.inputs)),
            outputs=tuple(map(BindingEntry.of, program.outputs)),
            files=files,
        )

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of an entry, with every file of the entry verified.

        Raises:
            Damaged: anything is missing, superfluous, changed, or of another version.
            OSError: it can't be read.
        """
        path = directory / NAME
        if path.is_symlink() or not path.is_file():
            raise Damaged(f"it has no {NAME}")
        if path.stat().st_size > LARGEST:
            raise Damaged(f"its {NAME} is too large")
        try:
            manifest = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise Damaged(f"its {NAME} is not valid ({where}: {first['msg']})") from None
        if (manifest.format, manifest.suite) != (FORMAT, __version__):
            raise Damaged(
                f"it is of version {manifest.suite[:40]}, format {manifest.format}; this is "
                f"{__version__}, format {FORMAT}"
            )
        manifest.verify(directory)
        return manifest

    def verify(self, directory: Path) -> None:
        """Compare an entry's files with what is written here of them.

        Raises:
            Damaged: they differ.
            OSError: they can't be read.
        """
        found = {
            path.relative_to(directory).as_posix()
            for path in directory.rglob("*")
            if path.is_symlink() or not path.is_dir()
        } - {NAME}
        if missing := self.files.keys() - found:
            raise Damaged(f"{min(missing)} is missing")
        if strange := found - self.files.keys():
            raise Damaged(f"{min(strange)} doesn't belong to it")
        for name, entry in self.files.items():
            path = directory / name
            if path.is_symlink():
                raise Damaged(f"{name} is a link")
            if path.stat().st_size != entry.size:
                raise Damaged(f"{name} has {path.stat().st_size} bytes, not {entry.size}")
            if digest(path) != entry.sha256:
                raise Damaged(f"{name} has another checksum than it had")

    def restored(self) -> Program:
        """The program without graph and weights.

        Raises:
            Damaged: a binding that can't be.
        """
        empty = torch.fx.GraphModule({}, torch.fx.Graph())
        inputs = tuple(entry.binding() for entry in self.inputs)
        outputs = tuple(entry.binding() for entry in self.outputs)
        return Program(self.program, empty, inputs, outputs)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
