"""Errors that a user reads."""

import pytest

from vllm_npu_runtime import errors
from vllm_npu_runtime.errors import ConfigurationError, DeviceError, NPUError


def test_an_unknown_name_brings_the_nearest_and_all_known_ones() -> None:
    text = str(ConfigurationError.unknown("driver", "refrence", ["sim", "reference"]))
    assert text == "Unknown driver 'refrence'. Did you mean 'reference'? Known: reference, sim."


def test_a_name_like_no_other_brings_no_hint() -> None:
    text = str(ConfigurationError.unknown("driver", "xyz", ["sim", "reference"]))
    assert text == "Unknown driver 'xyz'. Known: reference, sim."


def test_where_nothing_is_known_it_says_so() -> None:
    assert str(ConfigurationError.unknown("option", "a", [])).endswith("Known: none.")


def test_one_problem_stands_alone() -> None:
    assert str(ConfigurationError.several(["it is wrong"])) == "it is wrong"


def test_several_problems_are_counted_and_numbered() -> None:
    lines = str(ConfigurationError.several(["first", "second"])).splitlines()
    assert lines == ["2 settings can't be honoured:", "  1. first", "  2. second"]


def test_a_configuration_error_is_a_value_error_as_callers_of_vllm_expect() -> None:
    assert issubclass(ConfigurationError, ValueError)


@pytest.mark.parametrize(
    "name",
    ["OutOfMemoryError", "UnsupportedOperatorError", "BadShapeError", "DeviceLostError",
     "DeviceTimeoutError"],
)  # fmt: skip
def test_what_a_device_can_do_wrong_is_a_device_error(name: str) -> None:
    assert issubclass(getattr(errors, name), DeviceError)


def test_every_error_is_one_of_ours() -> None:
    types = [each for each in vars(errors).values() if isinstance(each, type)]
    raised = [each for each in types if issubclass(each, Exception)]
    assert all(issubclass(each, NPUError) for each in raised)
