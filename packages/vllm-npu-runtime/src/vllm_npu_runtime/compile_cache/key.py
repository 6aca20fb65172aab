"""What a compiled graph depends on, in clear and as a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_npu_runtime import __version__

FORMAT = 1
"""Raise it when the files of the cache change; older entries are then compiled anew."""


@dataclass(frozen=True)
class CacheKey:
    """What a set of graphs depends on.

    Attributes:
        parts: values that JSON can hold, by name; everything that a graph depends on.
    """

    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """32 hex digits that change with the parts, the cache's format and this package."""
        text = json.dumps([FORMAT, __version__, self.parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]
