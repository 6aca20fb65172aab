"""Can compiled graphs be kept?"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vllm_npu_runtime.compile_cache.location import cache_directory
from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.result import Result, error, ok, warning
from vllm_npu_runtime.doctor.sizes import in_words

ROOM = 2**30


def check(environment: Environment) -> Iterator[Result]:
    """Write where the cache is, or where its directory would be made."""
    path = cache_directory(environment.variables)
    there = next(place for place in (path, *path.parents) if os.path.exists(place))
    problem = _problem(there)
    if problem:
        yield error(
            f"{path} can't be written: {problem}",
            "`export VLLM_CACHE_ROOT=` and a directory of yours.",
        )
        return
    free = shutil.disk_usage(there).free
    detail = f"{path}, {in_words(free)} free"
    if free < ROOM:
        yield warning(
            f"{detail}: compiled graphs may not fit.",
            "Free some space, or `export VLLM_CACHE_ROOT=` and a directory with more.",
        )
    else:
        yield ok(detail)


def _problem(place: Path) -> str:
    if not place.is_dir():
        return f"{place} is not a directory."
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as problem:
        return f"{problem.strerror}."
