"""The configuration page follows the settings."""

from pathlib import Path

import pytest

from vllm_npu_runtime.settings import Settings, environment_variables
from vllm_npu_runtime.settings_docs import main, page
from vllm_npu_runtime.settings_fields import settings_of

PAGE_IN_A_CLONE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_every_setting_and_variable_is_on_the_page() -> None:
    text = page()
    missing = [each.key for each in settings_of(Settings) if f"`{each.key}`" not in text]
    missing += [name for name in environment_variables() if f"`{name}`" not in text]
    assert not missing


def test_every_setting_is_described() -> None:
    assert all(each.description and each.allowed for each in settings_of(Settings))


def test_no_table_is_left_out() -> None:
    assert "<!-- table" not in page()


def test_it_is_written_and_then_found_current(tmp_path: Path) -> None:
    path = tmp_path / "configuration.md"
    assert main([str(path)]) == 0
    assert main([str(path), "--check"]) == 0


def test_a_stale_page_fails_with_the_way_to_renew_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "configuration.md"
    path.write_text("old")
    assert main([str(path), "--check"]) == 1
    assert "stale: run `nox -s docs`" in capsys.readouterr().err
    assert path.read_text() == "old"


def test_a_missing_page_fails(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none.md"), "--check"]) == 1


@pytest.mark.skipif(not PAGE_IN_A_CLONE.exists(), reason="runs outside a clone: no page to check")
def test_the_page_in_the_repository_is_current() -> None:
    assert main([str(PAGE_IN_A_CLONE), "--check"]) == 0
