"""The command `vllm-npu cache`."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from vllm_npu_runtime.cli import extension
from vllm_npu_runtime.cli.app import app
from vllm_npu_runtime.compile_cache import CacheKey, CompileCache

from .graphs import KEY, saved

OTHER = CacheKey({"model": "acme/other", "device": "acme:1"})


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's directory, by the variable that users set; the package's own, and no other's."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("VLLM_DISABLE_COMPILE_CACHE", raising=False)
    monkeypatch.setattr(extension, "entry_points", lambda group: [])
    return tmp_path / "npu"


@pytest.fixture
def both(root: Path) -> tuple[CompileCache, CompileCache]:
    """Two configurations' graphs; the second's were not used for ten days."""
    caches = CompileCache(root, KEY), CompileCache(root, OTHER)
    for cache in caches:
        saved(cache)
    then = time.time() - 10 * 86400
    os.utime(caches[1].directory / "key.json", (then, then))
    return caches


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["cache", *arguments], input=answer)


def test_it_lists_its_commands() -> None:
    output = run("--help").output
    assert all(command in output for command in ("list", "verify", "clear"))


@pytest.mark.parametrize("command", ["list", "verify", "clear"])
def test_an_empty_cache_is_no_failure(command: str, root: Path) -> None:
    result = run(command)
    assert result.exit_code == 0 and str(root) in result.output


@pytest.mark.parametrize("command", ["list", "verify", "clear"])
def test_a_directory_that_cannot_be_read_is_one_line_and_a_failure(
    command: str, root: Path
) -> None:
    root.touch()
    result = run(command)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert f"{root} can't be read: Not a directory" in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.usefixtures("both")
def test_the_list_is_a_table(root: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    row = next(line for line in result.stdout.splitlines() if "acme/tiny" in line)
    for cell in (KEY.digest[:12], "acme:NPU", "0.1.0", "1", "1 KiB", f"{time.localtime()[0]}-"):
        assert cell in row
    assert str(root) in result.stdout


def test_the_list_as_json_is_nothing_but_json(
    both: tuple[CompileCache, CompileCache], root: Path
) -> None:
    listed = json.loads(run("list", "--json").stdout)
    assert listed["directory"] == str(root)
    first, second = listed["entries"]
    assert (first["digest"], first["model"], first["graphs"]) == (KEY.digest, "acme/tiny", 1)
    assert second["directory"] == str(both[1].directory) and second["size"] > 0


def test_an_empty_list_as_json_is_json() -> None:
    assert json.loads(run("list", "--json").stdout)["entries"] == []


def test_the_list_shows_what_cannot_be_read(both: tuple[CompileCache, CompileCache]) -> None:
    (both[0].directory / "key.json").write_text("{")
    result = run("list")
    assert result.exit_code == 0 and "fails: key.json: Invalid JSON" in result.stdout


def test_the_list_leaves_out_what_holds_nothing(root: Path) -> None:
    with CompileCache(root, KEY).lock("tokens=64"):
        pass
    assert "is empty" in run("list").stdout


def test_the_list_says_when_the_cache_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "VLLM_DISABLE_COMPILE_CACHE" not in run("list").stdout
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
    assert "VLLM_DISABLE_COMPILE_CACHE=1: engines neither read nor write" in run("list").stdout
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "maybe")
    assert "VLLM_DISABLE_COMPILE_CACHE='maybe': must be 1" in run("list").stdout


@pytest.mark.usefixtures("both")
def test_verify_ends_well_where_everything_is_whole(root: Path) -> None:
    result = run("verify")
    assert (result.exit_code, result.stdout) == (0, f"2 graphs in {root}, nothing damaged.\n")


def test_verify_fails_and_names_what_is_damaged(both: tuple[CompileCache, CompileCache]) -> None:
    path = both[1].directory / "tokens=64"
    (path / "graph.bin").write_bytes(b"another graph!!!")
    result = run("verify")
    assert result.exit_code == 1
    assert f"damaged: {path}: file 'graph.bin' doesn't have its checksum" in result.stdout


def test_verify_passes_over_another_format(both: tuple[CompileCache, CompileCache]) -> None:
    path = both[0].directory / "key.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    result = run("verify")
    assert result.exit_code == 0 and "its format is 2" in result.stdout
    assert "1 graph in" in result.stdout


@pytest.mark.usefixtures("both")
def test_clear_asks_and_tells_what_it_freed(root: Path) -> None:
    refused = run("clear", answer="n\n")
    assert refused.exit_code == 1 and len(os.listdir(root)) == 2
    assert "acme/tiny on acme:NPU: 1 graph" in refused.stdout
    agreed = run("clear", answer="y\n")
    assert agreed.exit_code == 0 and "KiB freed." in agreed.stdout
    assert os.listdir(root) == []


@pytest.mark.usefixtures("both")
def test_clear_without_an_answer_removes_nothing(root: Path) -> None:
    assert run("clear", answer="").exit_code == 1 and len(os.listdir(root)) == 2


@pytest.mark.usefixtures("both")
def test_clear_does_not_ask_when_told(root: Path) -> None:
    assert run("clear", "--yes").exit_code == 0 and os.listdir(root) == []


@pytest.mark.usefixtures("both")
def test_clear_takes_the_first_digits_of_a_key(root: Path) -> None:
    assert run("clear", KEY.digest[:8], "--yes").exit_code == 0
    assert os.listdir(root) == [OTHER.digest]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("digits", ["zz", ""])
def test_clear_refuses_an_unknown_key(root: Path, digits: str) -> None:
    result = run("clear", digits, "--yes")
    assert result.exit_code == 1 and f"begins with '{digits}'" in result.output
    assert len(os.listdir(root)) == 2


@pytest.mark.usefixtures("both")
def test_clear_takes_what_was_not_used_for_days(root: Path) -> None:
    assert "Nothing to remove" in run("clear", "--older-than", "11", "--yes").stdout
    assert run("clear", "--older-than", "9.5", "--yes").exit_code == 0
    assert os.listdir(root) == [KEY.digest]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("days", ["-1", "nan", "inf", "1e300"])
def test_clear_refuses_impossible_days(root: Path, days: str) -> None:
    result = run("clear", f"--older-than={days}", "--yes")
    assert result.exit_code == 2 and len(os.listdir(root)) == 2


def test_clear_leaves_what_an_engine_compiles_into_and_says_so(
    both: tuple[CompileCache, CompileCache], root: Path
) -> None:
    with both[0].lock("tokens=32"):
        result = run("clear", "--yes")
    assert result.exit_code == 1 and os.listdir(root) == [KEY.digest]
    assert f"{KEY.digest[:12]} stays: an engine is compiling into it." in result.output


# Commands of other packages

FURTHER = '''
from typing import Annotated
import typer

def warm(model: str, times: Annotated[int, typer.Option()] = 1) -> None:
    """Compile now."""
    typer.echo(f"warm {model} {times}")

def anything(context: typer.Context, model: str) -> None:
    """Take any option."""
    typer.echo(f"{model} {context.args}")
'''


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points of other packages, of a module `further_commands`."""
    (tmp_path / "further_commands.py").write_text(FURTHER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "further_commands", raising=False)
    installed: list[EntryPoint] = []

    def installed_in(group: str) -> list[EntryPoint]:
        return installed if group == "vllm_npu.cache_commands" else []

    monkeypatch.setattr(extension, "entry_points", installed_in)
    return installed


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "vllm_npu.cache_commands")


def test_another_package_can_bring_a_command(points: list[EntryPoint]) -> None:
    points.append(point("warm", "further_commands:warm"))
    assert "Compile now." in run("--help").output
    assert run("warm", "tiny", "--times", "3").stdout == "warm tiny 3\n"
    assert run("warm", "tiny", "--tims", "3").exit_code == 2


def test_a_command_with_a_context_takes_arguments_that_it_does_not_declare(
    points: list[EntryPoint],
) -> None:
    points.append(point("anything", "further_commands:anything"))
    assert run("anything", "tiny", "--dtype", "half").stdout == "tiny ['--dtype', 'half']\n"


@pytest.mark.parametrize("value", ["no_such_module:warm", "further_commands:gone"])
def test_a_command_that_cannot_be_loaded_says_so_and_breaks_no_other(
    points: list[EntryPoint], value: str
) -> None:
    points += [point("broken", value), point("warm", "further_commands:warm")]
    result = run("broken")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert f"'broken' ({value}) can't be loaded: " in result.output
    assert "Not available" in run("--help").output
    assert run("warm", "tiny").exit_code == 0 and run("list").exit_code == 0


def test_another_packages_command_is_not_imported_for_others(points: list[EntryPoint]) -> None:
    points.append(point("warm", "further_commands:warm"))
    run("list")
    assert "further_commands" not in sys.modules


def test_another_package_cannot_take_over_a_command(points: list[EntryPoint]) -> None:
    points.append(point("list", "further_commands:warm"))
    assert "is empty" in run("list").stdout


def test_an_unknown_command_is_refused() -> None:
    assert run("frobnicate").exit_code == 2
