"""`--model-loader-extra-config`: what it takes, and what it says to what it doesn't."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_npu_models.configuration.loader_config import LoaderConfig
from vllm_npu_runtime.errors import ConfigurationError


def test_a_board_may_be_a_number_or_a_list() -> None:
    assert LoaderConfig.of({"dev_no": 1}).dev_no == (1,)
    assert LoaderConfig.of({"dev_no": [0, 2]}).dev_no == (0, 2)


def test_the_layout_of_the_runtime_is_taken() -> None:
    given = {"dev_no": 0, "core_mode": "global4", "target_clusters": [0], "target_cores": ["1:0"]}
    made = LoaderConfig.of(given)
    assert (made.core_mode, made.target_clusters, made.target_cores) == ("global4", (0,), ("1:0",))


def test_prefixed_keys_are_read_too() -> None:
    made = LoaderConfig.of({"text_dev_no": [1], "text_max_batch_size": 4})
    assert (made.dev_no, made.max_batch_size) == ((1,), 4)


def test_snapshots_have_settings_with_defaults() -> None:
    made = LoaderConfig.of({"prefix_cache_max_host_mib": 64})
    assert made.prefix_cache_max_host_mib == 64
    assert made.prefix_cache_max_entries == 16


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"core_mod": "single"}, r"Unknown key 'core_mod'. Did you mean 'core_mode'\?"),
        ({"text_devno": 0}, r"Unknown key 'text_devno'. Did you mean '(text_)?dev_no'\?"),
        ({"vision_dev_no": 0}, r"'vision_dev_no' is of a model's vision part"),
        ({"dev_no": -1}, r"'dev_no' is -1"),
        ({"dev_no": "0"}, r"'dev_no' is '0'"),
        ({"max_batch_size": 0}, r"'max_batch_size' is 0"),
        ({"max_batch_size": 2.0}, r"'max_batch_size' is 2.0"),
        ({"dev_no": 0, "text_dev_no": 1}, r"'dev_no' and 'text_dev_no' are the same"),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        LoaderConfig.of(given)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)1\..*nonsense.*2\..*max_batch_size"):
        LoaderConfig.of({"nonsense": 1, "max_batch_size": 0})
