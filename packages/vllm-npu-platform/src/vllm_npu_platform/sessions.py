"""Models that run in a session: compiled ahead of time, by wrappers of another package.

Here they need no graphs and no KV cache: their forward pass is a step of the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_npu_runtime.artifact.names import LOAD_FORMAT

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def in_session(config: VllmConfig) -> bool:
    """Whether the model runs in a session, which its configuration hook says by the load format."""
    return bool(config.load_config.load_format == LOAD_FORMAT)
