"""A user's script without a guard isn't run a second time."""

from __future__ import annotations

import pytest

from vllm_npu_platform.processes.main_module import is_guarded


@pytest.mark.parametrize(
    "source",
    [
        'if __name__ == "__main__":\n    main()',
        "def f(): pass\nif '__main__' == __name__: f()",
        'if __name__ == "__main__" and True:\n    f()\nelse:\n    g()',
    ],
)
def test_a_guard_is_seen(source: str) -> None:
    assert is_guarded(source)


@pytest.mark.parametrize(
    "source",
    ["", "from vllm import LLM\nllm = LLM('m')", 'if x == "__main__":\n    f()', "# __name__"],
)
def test_anything_else_is_no_guard(source: str) -> None:
    assert not is_guarded(source)
