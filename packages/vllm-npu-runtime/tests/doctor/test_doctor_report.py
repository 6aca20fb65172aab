"""The doctor's report for bug reports: what it holds, and what it hides."""

import pytest

from vllm_npu_runtime.doctor import registry
from vllm_npu_runtime.doctor.environment import Environment
from vllm_npu_runtime.doctor.redaction import without_secrets, without_whereabouts
from vllm_npu_runtime.doctor.report import markdown

from .machine import setting


def test_the_report_holds_versions_devices_variables_and_checks(healthy: Environment) -> None:
    text = markdown(healthy, registry.run(healthy))
    for line in ("- vllm 0.32.0+empty", "  - reference: host, 8.0 GiB", "| torch | ok | 2.13.0"):
        assert line in text
    assert "`OMP_WAIT_POLICY=passive`" in text


def test_the_report_holds_only_variables_that_matter_and_no_secret(healthy: Environment) -> None:
    environment = setting(healthy, VLLM_API_KEY="s3cret", HOME="/home/x", HF_TOKEN="hf_s3cret")
    text = markdown(environment, [])
    assert "VLLM_API_KEY=<hidden>" in text
    assert "s3cret" not in text and "HOME=" not in text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("VLLM_API_KEY", "abc", "<hidden>"),
        ("VLLM_SOME_TOKEN", "abc", "<hidden>"),
        ("VLLM_NPU_TOKEN_BUCKET_MIN", "4", "4"),
        ("VLLM_MAX_TOKENS_PER_EXPERT", "4", "4"),
        ("VLLM_NPU_DRIVER_OPTIONS", '{"api_key": "abc", "n": 1}', '{"api_key": <hidden>, "n": 1}'),
        ("VLLM_PROXY", "https://me:abc@host/", "https://<hidden>@host/"),
    ],
)
def test_secrets_are_hidden(name: str, value: str, shown: str) -> None:
    assert without_secrets(name, value) == shown


def test_homes_and_user_names_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("LOGNAME", "alice")
    text = "/home/alice/.cache, /home/bob/x, /data/alice/y, alicebot"
    assert without_whereabouts(text) == "~/.cache, /home/<user>/x, /data/<user>/y, alicebot"
