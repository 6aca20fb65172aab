"""The page about the driver tells its options as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_npu_runtime.openvino.options import OpenVINOOptions

PAGE = Path(__file__).parents[4] / "docs" / "openvino.md"


@pytest.mark.parametrize("name", OpenVINOOptions.model_fields)
def test_option_is_on_the_page(name: str) -> None:
    """With its default and its description."""
    if not PAGE.exists():
        pytest.skip("the tests lie apart from the repository, and the page with them")
    field = OpenVINOOptions.model_fields[name]
    default = "none" if field.default is None else str(field.default).lower()
    assert f"| `{name}` | {default} | {field.description} |" in PAGE.read_text()
