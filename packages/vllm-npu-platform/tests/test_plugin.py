"""The plugin's entry points: who they let in, and what they say."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vllm_npu_platform
from vllm_npu_runtime.errors import ConfigurationError

PLATFORM = "vllm_npu_platform.platform.NPUPlatform"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As in a process that has said nothing yet."""
    monkeypatch.setenv("_VLLM_NPU_SAID", "")
    caplog.set_level(logging.INFO, "vllm.npu")


def test_a_device_by_name_activates_the_platform(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLLM_NPU_DEVICE", "reference")
    assert vllm_npu_platform.register() == PLATFORM
    assert caplog.messages == []


@pytest.mark.parametrize("wanted", [None, "auto"])
def test_without_an_npu_it_stays_away_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wanted: str | None
) -> None:
    if wanted is None:
        monkeypatch.delenv("VLLM_NPU_DEVICE", raising=False)
    else:
        monkeypatch.setenv("VLLM_NPU_DEVICE", wanted)
    # Only drivers of ours, of which none finds an NPU: a machine with one would be no test.
    from vllm_npu_runtime import drivers

    every = drivers.available()
    monkeypatch.setattr(drivers, "available", lambda: {"reference": every["reference"]})
    assert vllm_npu_platform.register() is None
    assert vllm_npu_platform.register() is None
    (line,) = caplog.messages
    assert line.startswith("vllm-npu stays inactive: No NPU was found (reference: no NPU).")
    assert "VLLM_NPU_DEVICE=" in line
    assert "\n" not in line


def test_an_unknown_device_is_not_left_to_another_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The platform is chosen, and then fails by name, where vLLM shows the error."""
    from vllm_npu_platform.platform import NPUPlatform

    monkeypatch.setenv("VLLM_NPU_DEVICE", "refrence")
    assert vllm_npu_platform.register() == PLATFORM
    with pytest.raises(ConfigurationError, match=r"'refrence'\. Did you mean 'reference'"):
        NPUPlatform.pre_register_and_update()


@pytest.mark.parametrize("plugins", ["npu_stats", "other,npu_stats", ""])
def test_a_filter_that_leaves_us_out_is_explained_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plugins: str
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", plugins)
    vllm_npu_platform.explain_filter()
    vllm_npu_platform.explain_filter()
    (line,) = caplog.messages
    assert f"VLLM_PLUGINS='{plugins}' leaves out 'npu'" in line


@pytest.mark.parametrize("plugins", [None, "npu", "npu,npu_stats"])
def test_a_filter_that_lets_us_in_needs_no_explanation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plugins: str | None
) -> None:
    if plugins is None:
        monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("VLLM_PLUGINS", plugins)
    vllm_npu_platform.explain_filter()
    assert caplog.messages == []


def packages_of(name: str) -> list[str]:
    """A package and those in it."""
    root = Path(next(iter(import_module(name).__path__)))
    found = [path.parent.relative_to(root) for path in root.rglob("__init__.py")]
    return [".".join((name, *part.parts)) for part in sorted(found)]


@pytest.mark.parametrize("name", ["vllm_npu_platform", "vllm_npu_runtime"])
def test_importing_packages_imports_neither_torch_nor_vllm(name: str) -> None:
    packages = ", ".join(packages_of(name))
    code = f"import sys, {packages}; print([m for m in ('torch', 'vllm') if m in sys.modules])"
    # -I: nothing of the shell's, such as a path with start-up code, gets in.
    command = [sys.executable, "-I", "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert output.stdout.strip() == "[]"
