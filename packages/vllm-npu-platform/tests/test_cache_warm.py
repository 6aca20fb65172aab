"""The command `vllm-npu cache warm`, up to where an engine would start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from vllm_npu_platform.cli import cache_warm
from vllm_npu_runtime.cli.app import app
from vllm_npu_runtime.errors import ConfigurationError

OFF = "VLLM_DISABLE_COMPILE_CACHE"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What engines were to be started with; none starts."""
    arguments: list[Any] = []

    def start(given: Any) -> None:
        arguments.append(given)
        raise ConfigurationError("There is no such device.")

    monkeypatch.setattr(cache_warm, "_start", start)
    monkeypatch.delenv(OFF, raising=False)
    for variable in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(variable, "")  # The command sets them for its process; put them back.
        monkeypatch.delenv(variable)
    return arguments


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A directory, so that nobody looks for it on the hub."""
    return str(tmp_path)


def warm(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", "warm", *arguments])


def test_it_is_a_command_of_the_cache() -> None:
    result = CliRunner().invoke(app, ["cache", "--help"])
    assert "warm" in result.output and "Compile a model's graphs" in result.output


@pytest.mark.parametrize("value", ["1", "true"])
def test_a_cache_that_is_switched_off_is_refused(
    model: str, value: str, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFF, value)
    result = warm(model)
    assert result.exit_code == 2
    assert result.output == f"error: {OFF} is set: nothing is kept. Unset it.\n"
    assert not started


def test_a_cache_that_is_not_switched_off_is_used(
    model: str, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFF, "0")
    warm(model)
    assert started


def test_a_switch_that_cannot_be_read_is_one_line(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OFF, "perhaps")
    result = warm(model)
    assert isinstance(result.exception, SystemExit)
    assert result.output.splitlines() == [
        f"error: {OFF}='perhaps': must be 1 to switch the compile cache off, or 0."
    ]


def test_a_model_is_needed(started: list[Any]) -> None:
    result = warm()
    assert result.exit_code == 2
    assert "Missing argument" in result.output
    assert not started


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--no-such-option",), "unrecognized arguments: --no-such-option"),
        (("--no-such-option", "5"), "unrecognized arguments: --no-such-option 5"),
        (("another/model",), "unrecognized arguments: another/model"),
        (("--max-num-seqs", "many"), "argument --max-num-seqs: invalid"),
        (("--dtype", "float1"), "argument --dtype: invalid choice: 'float1'"),
        (("--max-num-seqs",), "argument --max-num-seqs: expected one argument"),
    ],
)
def test_what_the_engine_does_not_take_is_refused(
    model: str, arguments: tuple[str, ...], problem: str, started: list[Any]
) -> None:
    result = warm(model, *arguments)
    assert result.exit_code == 2
    assert problem in result.output
    assert "vllm-npu cache warm: error" in result.output
    assert not started


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-num-seqs", "3", "--dtype", "bfloat16"),
        ("--max-num-seqs=3", "--dtype=bfloat16"),
        ("--max_num_seqs", "3", "--dtype", "bfloat16"),
    ],
    ids=" ".join,
)
def test_options_are_read_as_the_server_reads_them(
    model: str, arguments: tuple[str, ...], started: list[Any]
) -> None:
    warm(model, *arguments)
    (given,) = started
    assert (given.model, given.max_num_seqs, given.dtype) == (model, 3, "bfloat16")


def test_settings_are_given_as_to_the_server(model: str, started: list[Any]) -> None:
    warm(model, "--additional-config", '{"npu": {"kv_contract": "gather"}}')
    assert started[0].additional_config == {"npu": {"kv_contract": "gather"}}


def test_options_may_come_before_the_model(model: str, started: list[Any]) -> None:
    warm("--max-num-seqs", "3", model)
    assert started[0].model == model


def test_an_engine_that_does_not_start_is_one_line(model: str) -> None:
    result = warm(model)
    assert result.exit_code == 1
    assert result.stderr == "error: There is no such device.\n"


def test_the_engine_is_to_start_in_this_process(model: str) -> None:
    warm(model)
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
