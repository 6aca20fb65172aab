"""What a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_npu_runtime.doctor.environment import Environment


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing to mend."""
    WARNING = "warning"
    """Something that is hardly ever meant, or that a feature lacks."""
    ERROR = "error"
    """Serving fails, or runs something other than this suite."""


@dataclass(frozen=True)
class Result:
    """One finding.

    Attributes:
        name: of the check; the registry fills it in.
        status: how bad it is.
        detail: what was found.
        fix: what to do, as commands where possible; "" if there is nothing to do.
    """

    name: str = field(default="", kw_only=True)
    status: Status
    detail: str
    fix: str = ""


Check = Callable[["Environment"], Iterable[Result]]


def ok(detail: str) -> Result:
    """All is well."""
    return Result(Status.OK, detail)


def note(detail: str, fix: str = "") -> Result:
    """Worth knowing."""
    return Result(Status.NOTE, detail, fix)


def warning(detail: str, fix: str) -> Result:
    """Hardly ever meant."""
    return Result(Status.WARNING, detail, fix)


def error(detail: str, fix: str) -> Result:
    """Must be mended."""
    return Result(Status.ERROR, detail, fix)
