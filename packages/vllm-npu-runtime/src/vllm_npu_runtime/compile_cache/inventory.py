"""What is in the compile cache, for people: list it, verify it, clear it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel

from vllm_npu_runtime.compile_cache import names
from vllm_npu_runtime.compile_cache.files import delete, set_aside
from vllm_npu_runtime.compile_cache.key import DIGITS, FORMAT, KEY_FILE, KeyRecord
from vllm_npu_runtime.compile_cache.manifest import MANIFEST
from vllm_npu_runtime.compile_cache.records import DamagedError, one_line, read, reason_of
from vllm_npu_runtime.compile_cache.saved import Saved
from vllm_npu_runtime.errors import ConfigurationError

_DIGEST = re.compile(f"[0-9a-f]{{{DIGITS}}}")


class Entry(BaseModel):
    """The graphs of one configuration.

    Attributes:
        digest: of the configuration's key.
        directory: where they are.
        model: as the key names it; "" where it doesn't.
        device: the same.
        suite: version that wrote them; "" where nothing says so.
        graphs: number of them.
        size: bytes of all files.
        created: when the first graph was saved.
        used: when a graph was last loaded or saved.
        problem: why something in it couldn't be read.
    """

    digest: str
    directory: Path
    model: str = ""
    device: str = ""
    suite: str = ""
    graphs: int = 0
    size: int = 0
    created: datetime | None = None
    used: datetime | None = None
    problem: str | None = None


@dataclass
class Cleared:
    """What `clear` did.

    Attributes:
        removed: what is gone.
        kept: what had to stay, and why.
    """

    removed: list[Entry] = field(default_factory=list)
    kept: list[tuple[Entry, str]] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.removed)


def entries(root: Path) -> list[Entry]:
    """All there is, what was used last first. What isn't the cache's own is left out.

    Raises:
        ConfigurationError: the directory can't be read.
    """
    found = [_entry(root / name) for name in _names(root) if _is_ours(root / name)]
    never = datetime.fromtimestamp(0, UTC)
    return sorted(found, key=lambda entry: entry.used or never, reverse=True)


def chosen(
    among: Sequence[Entry], digits: str | None = None, unused_for: timedelta | None = None
) -> list[Entry]:
    """Those whose digest begins with `digits`, and that nothing used for so long.

    Raises:
        ConfigurationError: no digest begins so.
    """
    picked = [entry for entry in among if entry.digest.startswith(digits or "")]
    if digits is not None and (not digits or not picked):
        raise ConfigurationError(
            f"No key in the compile cache begins with '{one_line(digits)}'. "
            "`vllm-npu cache list` shows them."
        )
    if unused_for is None:
        return picked
    since = datetime.now(UTC) - unused_for
    return [entry for entry in picked if entry.used is not None and entry.used < since]


def verify(entry: Entry) -> list[str]:
    """What is wrong with an entry, one line each; reads every file.

    Raises:
        ConfigurationError: another version of the cache's format wrote it.
    """
    try:
        return list(_problems(entry.directory))
    except FileNotFoundError:
        return []  # cleared in the meantime
    except OSError as error:
        return [f"{error.filename or entry.directory}: {reason_of(error)}"]


def clear(chosen_entries: Sequence[Entry]) -> Cleared:
    """Remove entries, but none that an engine compiles into now."""
    done = Cleared()
    for entry in chosen_entries:
        try:
            _remove(entry.directory)
        except FileNotFoundError:
            continue  # somebody else cleared it
        except Timeout:
            done.kept.append((entry, "an engine is compiling into it"))
        except OSError as error:
            done.kept.append((entry, f"{error.filename or entry.directory}: {reason_of(error)}"))
        else:
            done.removed.append(entry)
    return done


def sweep(root: Path) -> None:
    """Delete what an interrupted `clear` left behind, where possible."""
    with suppress(OSError):
        for name in os.listdir(root):
            digest = name[1 : 1 + DIGITS]
            if _DIGEST.fullmatch(digest) and names.belongs_to(name, digest):
                delete(root / name)


def _names(root: Path) -> list[str]:
    try:
        return sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(
            f"The compile cache {root} can't be read: {reason_of(error)}. "
            "Set VLLM_CACHE_ROOT to a directory of yours."
        ) from error


def _is_ours(directory: Path) -> bool:
    """Whether it is named like a key, and holds one, or nothing but locks and leftovers."""
    if not _DIGEST.fullmatch(directory.name) or directory.is_symlink() or not directory.is_dir():
        return False
    try:
        within = os.listdir(directory)
    except OSError:
        return True  # shown as unreadable; it can't be cleared either
    return KEY_FILE in within or all(map(_is_by_the_way, within))


def _is_by_the_way(name: str) -> bool:
    return names.is_lock(name) or names.is_leftover(name)


def _entry(directory: Path) -> Entry:
    entry = Entry(digest=directory.name, directory=directory)
    try:
        entry.graphs = sum((each / MANIFEST).is_file() for each in _graphs(directory))
        entry.size = _size(directory)
        entry.used = _changed(directory)
        if (directory / KEY_FILE).exists():
            entry.used = _changed(directory / KEY_FILE)
            record = read(directory / KEY_FILE, KeyRecord)
            entry.model = _shown(record.parts.get("model"))
            entry.device = _shown(record.parts.get("device"))
            entry.suite, entry.created = one_line(record.suite), record.created
    except DamagedError as error:
        entry.problem = str(error)
    except OSError as error:
        entry.problem = reason_of(error)
    return entry


def _shown(part: object) -> str:
    return one_line(part) if isinstance(part, str) else ""


def _graphs(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name != KEY_FILE and not _is_by_the_way(path.name):
            yield path


def _size(directory: Path) -> int:
    # Leftovers and what is damaged take room too; links count as what they are.
    paths = (Path(top) / name for top, _, files in os.walk(directory) for name in files)
    return sum(path.lstat().st_size for path in paths)


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)


def _problems(directory: Path) -> Iterator[str]:
    graphs = list(_graphs(directory))
    if not graphs and not (directory / KEY_FILE).exists():
        return  # locks alone
    try:
        record = read(directory / KEY_FILE, KeyRecord)
        if record.format == FORMAT and record.digest != directory.name:
            raise DamagedError(f"{KEY_FILE} belongs to another key")
    except (DamagedError, ConfigurationError) as error:
        yield f"{directory}: {one_line(str(error))}"
        return
    if record.format != FORMAT:
        raise ConfigurationError(
            f"{directory}: its format is {record.format}, and {FORMAT} is read here; not verified."
        )
    for graph in graphs:
        try:
            Saved.at(graph, record.suite)
        except FileNotFoundError:
            continue  # an engine just replaced it
        except DamagedError as error:
            yield f"{graph}: {error}"


def _remove(directory: Path) -> None:
    with ExitStack() as held:
        for name in filter(names.is_lock, os.listdir(directory)):
            held.enter_context(FileLock(directory / name).acquire(timeout=0))
        delete(set_aside(directory))
