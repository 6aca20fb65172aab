"""The page about the driver tells its options as they are, and what was never tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_npu_runtime.mobilint.config import ARCHITECTURES, MODES
from vllm_npu_runtime.mobilint.options import MobilintOptions

PAGE = Path(__file__).parents[4] / "docs" / "mobilint.md"


@pytest.fixture
def page() -> str:
    """The page's text."""
    if not PAGE.exists():
        pytest.skip("the tests lie apart from the repository, and the page with them")
    return PAGE.read_text()


@pytest.mark.parametrize("name", MobilintOptions.model_fields)
def test_option_is_on_the_page(name: str, page: str) -> None:
    """With its default and its description."""
    field = MobilintOptions.model_fields[name]
    assert f"| `{name}` | {str(field.default).lower()} | {field.description} |" in page


def test_names_are_on_the_page(page: str) -> None:
    """Architectures and core modes."""
    assert not [name for name in (*ARCHITECTURES, *MODES) if f"`{name}`" not in page]


def test_says_that_it_has_not_run(page: str) -> None:
    """In the first lines."""
    assert "has never run on hardware" in page[:600]
