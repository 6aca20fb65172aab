"""What the fork server imports: everything that an engine process needs."""

import contextlib

with contextlib.suppress(Exception):  # an engine that can't import it says so itself
    import vllm.v1.engine.core  # noqa: F401

    import vllm_npu_platform.worker  # noqa: F401
