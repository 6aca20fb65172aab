"""Settings: from a mapping and the environment, checked at once."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import BucketSettings, Settings, environment_variables

BUCKETS = ("token_bucket", "decode_batch_bucket", "prefill_chunk_bucket")


def refusal(mapping: dict[str, object] | None = None, **variables: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(mapping, variables)
    return str(raised.value)


def test_the_defaults_need_nothing() -> None:
    settings = Settings.load({}, {})
    assert (settings.device, settings.strict, settings.warm_up) == ("auto", False, True)
    assert settings.kv_contract == "auto"
    assert settings.prefill_chunk_size is None
    assert settings.run_timeout is None
    assert settings.driver_options == {}
    assert settings.token_bucket == BucketSettings(
        strategy="exponential", min=1, step=None, limit=32
    )


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_NPU_DEVICE", "sim:small")
    assert Settings.load().device == "sim:small"


def test_a_mapping_sets_everything() -> None:
    settings = Settings.load(
        {
            "device": "acme:0",
            "strict": True,
            "warm_up": False,
            "kv_contract": "gather",
            "prefill_chunk_size": 64,
            "run_timeout": 2.5,
            "driver_options": {"cores": 4},
            "decode_batch_bucket": {"strategy": "manual", "manual_buckets": [4, 1, 2]},
        },
        {},
    )
    assert (settings.device, settings.strict, settings.warm_up) == ("acme:0", True, False)
    assert (settings.kv_contract, settings.prefill_chunk_size) == ("gather", 64)
    assert (settings.run_timeout, settings.driver_options) == (2.5, {"cores": 4})
    assert settings.decode_batch_bucket.manual_buckets == (4, 1, 2)


def test_variables_set_everything() -> None:
    settings = Settings.load(
        None,
        {
            "VLLM_NPU_DEVICE": "acme:0",
            "VLLM_NPU_STRICT": "1",
            "VLLM_NPU_WARM_UP": "false",
            "VLLM_NPU_KV_CONTRACT": "paged",
            "VLLM_NPU_PREFILL_CHUNK_SIZE": "64",
            "VLLM_NPU_RUN_TIMEOUT": "2.5",
            "VLLM_NPU_DRIVER_OPTIONS": '{"cores": 4, "mode": {"fast": true}}',
        },
    )
    assert (settings.device, settings.strict, settings.warm_up) == ("acme:0", True, False)
    assert (settings.kv_contract, settings.prefill_chunk_size) == ("paged", 64)
    assert settings.run_timeout == 2.5
    assert settings.driver_options == {"cores": 4, "mode": {"fast": True}}


@pytest.mark.parametrize("bucket", BUCKETS)
def test_every_bucket_setting_has_a_variable(bucket: str) -> None:
    prefix = f"VLLM_NPU_{bucket.upper()}"
    linear = {"_STRATEGY": "linear", "_MIN": "4", "_STEP": "3", "_LIMIT": "5"}
    settings = Settings.load({}, {prefix + name: text for name, text in linear.items()})
    assert getattr(settings, bucket) == BucketSettings(strategy="linear", min=4, step=3, limit=5)


@pytest.mark.parametrize("text", ["1,2,4", " 1, 2 ,4", "[1, 2, 4]"])
def test_a_list_in_a_variable_has_commas_or_is_json(text: str) -> None:
    variables = {
        "VLLM_NPU_TOKEN_BUCKET_STRATEGY": "manual",
        "VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS": text,
    }
    assert Settings.load({}, variables).token_bucket.manual_buckets == (1, 2, 4)


def test_exp_is_short_for_exponential() -> None:
    settings = Settings.load({"token_bucket": {"strategy": "exp"}}, {})
    assert settings.token_bucket.strategy == "exponential"


def test_the_variable_wins_over_the_mapping() -> None:
    assert Settings.load({"device": "a"}, {"VLLM_NPU_DEVICE": "b"}).device == "b"


def test_a_variable_wins_over_one_key_of_a_bucket_and_leaves_the_others() -> None:
    mapping = {"token_bucket": {"min": 4, "step": 3}}
    bucket = Settings.load(mapping, {"VLLM_NPU_TOKEN_BUCKET_MIN": "8"}).token_bucket
    assert (bucket.min, bucket.step) == (8, 3)


def test_loading_leaves_the_mapping_alone() -> None:
    mapping = {"token_bucket": {"min": 4}}
    Settings.load(mapping, {"VLLM_NPU_TOKEN_BUCKET_MIN": "8"})
    assert mapping == {"token_bucket": {"min": 4}}


def test_variables_of_others_are_not_ours() -> None:
    assert Settings.load({}, {"VLLM_PLUGINS": "npu", "NPU_DEVICE": "x"}) == Settings.load({}, {})


def test_settings_cannot_be_changed() -> None:
    settings = Settings.load({}, {})
    with pytest.raises(ValidationError):
        settings.device = "other"
    with pytest.raises(ValidationError):
        settings.token_bucket.min = 2


def test_every_setting_is_listed_with_its_variable() -> None:
    variables = environment_variables()
    assert variables["VLLM_NPU_DEVICE"] == ("device",)
    assert variables["VLLM_NPU_DECODE_BATCH_BUCKET_MANUAL_BUCKETS"] == (
        "decode_batch_bucket",
        "manual_buckets",
    )
    assert len(variables) == 9 + 5 * len(BUCKETS)


def test_an_unknown_key_is_refused_with_the_nearest() -> None:
    assert "Unknown setting 'devic'. Did you mean 'device'?" in refusal({"devic": "sim"})


def test_an_unknown_key_of_a_bucket_is_refused_with_the_nearest() -> None:
    text = refusal({"token_bucket": {"stratgy": "linear"}})
    assert "'token_bucket.stratgy'. Did you mean 'token_bucket.strategy'?" in text


def test_an_unknown_variable_is_refused_with_the_nearest() -> None:
    text = refusal(VLLM_NPU_TOKEN_BUCKT_MIN="4")
    assert "'VLLM_NPU_TOKEN_BUCKT_MIN'. Did you mean 'VLLM_NPU_TOKEN_BUCKET_MIN'?" in text


def test_a_misspelt_choice_is_refused_with_the_nearest() -> None:
    text = refusal(VLLM_NPU_KV_CONTRACT="pagd")
    assert text == (
        "Unknown VLLM_NPU_KV_CONTRACT 'pagd'. Did you mean 'paged'? Known: auto, gather, paged."
    )


def test_all_problems_are_told_at_once_and_named_as_they_were_given() -> None:
    text = refusal(
        {"strict": "maybe", "token_bucket": {"min": 0}, "unheard_of": 1},
        VLLM_NPU_RUN_TIMEOUT="soon",
        VLLM_NPU_UNHEARD_OF="1",
    )
    assert text.startswith("5 settings can't be honoured")
    assert "strict='maybe': must be true or false" in text
    assert "token_bucket.min=0: must be a whole number above 0" in text
    assert "VLLM_NPU_RUN_TIMEOUT='soon': must be a number above 0" in text
    assert "'unheard_of'" in text
    assert "'VLLM_NPU_UNHEARD_OF'" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", ""),
        ("device", None),
        ("warm_up", "perhaps"),
        ("prefill_chunk_size", 0),
        ("prefill_chunk_size", True),
        ("run_timeout", -1),
        ("run_timeout", float("nan")),
        ("run_timeout", float("inf")),
        ("driver_options", [1]),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed_and_the_way_out(
    key: str, value: object
) -> None:
    text = refusal({key: value})
    assert text.startswith(f"{key}={value!r}: must be ")
    assert "remove it for the default" in text


@pytest.mark.parametrize("key", ["min", "step", "limit"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "many"])
def test_bucket_numbers_are_positive(key: str, value: object) -> None:
    text = refusal({"token_bucket": {key: value}})
    assert f"token_bucket.{key}={value!r}: must be a whole number above 0" in text


def test_a_bucket_that_is_no_object_is_refused_with_an_example() -> None:
    text = refusal({"token_bucket": 8}, VLLM_NPU_TOKEN_BUCKET_MIN="4")
    assert "token_bucket=8: must be an object with any of strategy, min" in text


def test_an_exponential_step_of_one_would_never_end() -> None:
    assert "must be 2 or more" in refusal({"token_bucket": {"step": 1}})
    linear = Settings.load({"token_bucket": {"strategy": "linear", "step": 1}}, {})
    assert linear.token_bucket.step == 1


def test_manual_buckets_must_be_listed() -> None:
    text = refusal(VLLM_NPU_DECODE_BATCH_BUCKET_STRATEGY="manual")
    assert "decode_batch_bucket.manual_buckets: strategy 'manual' needs a list" in text


def test_a_size_that_is_listed_twice_is_named() -> None:
    text = refusal({"token_bucket": {"strategy": "manual", "manual_buckets": [1, 2, 2, 4]}})
    assert "sizes must be unique, but 2 is there twice" in text


def test_sizes_that_are_negative_or_no_numbers_are_named() -> None:
    text = refusal(
        VLLM_NPU_TOKEN_BUCKET_STRATEGY="manual", VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS="1,-2,x"
    )
    assert "VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS='1,-2,x'" in text
    assert "'-2', 'x' can't be used" in text


def test_a_list_that_the_strategy_would_ignore_is_refused() -> None:
    text = refusal({"token_bucket": {"strategy": "linear", "manual_buckets": [1, 2]}})
    assert "strategy 'linear' would ignore it" in text


@pytest.mark.parametrize("key", ["min", "step", "limit"])
def test_a_number_that_manual_buckets_would_ignore_is_refused(key: str) -> None:
    bucket = {"strategy": "manual", "manual_buckets": [1, 2], key: 2}
    assert f"token_bucket.{key}=2: strategy 'manual'" in refusal({"token_bucket": bucket})


def test_driver_options_that_are_no_json_are_refused() -> None:
    assert "it isn't valid JSON" in refusal(VLLM_NPU_DRIVER_OPTIONS="{cores: 4}")
    assert "must be a JSON object" in refusal(VLLM_NPU_DRIVER_OPTIONS="4")


@pytest.mark.parametrize("module", ["", ".settings", ".errors", ".device", ".cli", ".cli.app"])
def test_importing_it_imports_neither_torch_nor_vllm(module: str) -> None:
    code = (
        f"import sys, vllm_npu_runtime{module}\n"
        "sys.exit(' '.join({'torch', 'vllm'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
