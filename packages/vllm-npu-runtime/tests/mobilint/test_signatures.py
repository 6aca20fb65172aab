"""What we call is in the installed runtime, and the fake is like it. Needs no hardware."""

from __future__ import annotations

import ast
import inspect
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from vllm_npu_runtime.drivers.mobilint import MobilintDriver
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.mobilint import failures, vendor
from vllm_npu_runtime.mobilint.failures import typed
from vllm_npu_runtime.mobilint.requirement import require

from . import fake

TARGETS = [
    vendor.Target("auto"),
    *(vendor.Target("single", core=(cluster, core)) for cluster in (0, 1) for core in range(4)),
    *(vendor.Target(mode, cluster=each) for mode in ("multi", "global4") for each in (0, 1)),
    vendor.Target("global8"),
]


@pytest.fixture(scope="module")
def qbruntime() -> Any:
    """The vendor's module. Not imported before: processes forked for other tests would have it."""
    return pytest.importorskip("qbruntime", reason="mobilint-qb-runtime isn't installed")


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    """Parameters by name, kind and default; a default that is a sequence by its length."""

    def plain(default: Any) -> Any:
        if isinstance(default, list | tuple):
            return len(default)
        return None if isinstance(default, Enum) else default

    return [
        (each.name, each.kind, plain(each.default))
        for each in inspect.signature(function).parameters.values()
    ]


def fakes() -> list[tuple[str, str]]:
    """Every public method of the fake's classes, and their constructors."""
    classes = [each for each in vars(fake.Host().module()).values() if inspect.isclass(each)]
    return [
        (each.__name__, name)
        for each in classes
        if not issubclass(each, Enum | Exception) and each.__name__ != "BufferInfo"
        for name, value in inspect.getmembers(each, inspect.isfunction)
        if name == "__init__" or not name.startswith("_")
    ]


@pytest.mark.parametrize(("class_name", "method"), fakes())
def test_fake_method(qbruntime: Any, class_name: str, method: str) -> None:
    """Parameters of the same names, kinds and defaults, in the same order."""
    theirs = getattr(getattr(qbruntime, class_name), method)
    ours = getattr(getattr(fake.Host().module(), class_name), method)
    assert shape(ours) == shape(theirs)


@pytest.mark.parametrize(
    "name", ["get_available_devices", "get_available_device_numbers", "set_log_level"]
)
def test_fake_function(qbruntime: Any, name: str) -> None:
    """The same for functions of the module."""
    assert shape(getattr(fake.Host().module(), name)) == shape(getattr(qbruntime, name))


@pytest.mark.parametrize("name", ["Cluster", "Core", "CoreMode", "CacheType", "LogLevel"])
def test_fake_enumeration(qbruntime: Any, name: str) -> None:
    """Members that the fake knows exist; `name` of each is what we read."""
    theirs = {each.name for each in getattr(qbruntime, name)}
    assert {each.name for each in getattr(fake, name)} <= theirs


def test_fake_error(qbruntime: Any) -> None:
    """One class, of the same base, with the status in the text's first line."""
    assert issubclass(qbruntime.QbRuntimeError, RuntimeError)
    with pytest.raises(qbruntime.QbRuntimeError) as real:
        qbruntime.Model("/nonexistent.mxq")
    begin = str(fake.QbRuntimeError("Model_FailedToLoadMXQ")).splitlines()[0]
    assert str(real.value).splitlines()[0] == begin


def attributes(names: set[str]) -> set[tuple[str, str]]:
    """Attributes that the module with our calls takes of some names, as (name, attribute)."""
    tree = ast.parse(Path(vendor.__file__).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of = node.value
            name = of.id if isinstance(of, ast.Name) else getattr(of, "attr", "")
            if name in names:
                found.add((name, node.attr))
    return found


def test_every_call_exists(qbruntime: Any) -> None:
    """Whatever we take of the module, of a model and of a configuration."""
    used = attributes({"qbruntime", "_model", "made"})
    assert len(used) > 20
    owners = {"qbruntime": qbruntime, "_model": qbruntime.Model, "made": qbruntime.ModelConfig}
    missing = [(owner, name) for owner, name in used if not hasattr(owners[owner], name)]
    assert not missing


def test_every_call_is_in_the_fake() -> None:
    """So that no test passes for want of one."""
    module = fake.Host().module()
    owners = {"qbruntime": module, "_model": module.Model, "made": module.ModelConfig}
    used = attributes(set(owners))
    assert not [(owner, name) for owner, name in used if not hasattr(owners[owner], name)]


def test_nobody_else_calls() -> None:
    """The runtime is imported in one file, and where it is looked for."""
    package = Path(vendor.__file__).parent
    importers = {
        path.name
        for path in [*package.glob("*.py"), package.parent / "drivers" / "mobilint.py"]
        if "import qbruntime" in path.read_text()
    }
    assert importers == {"vendor.py", "requirement.py"}


def test_properties_that_we_read(qbruntime: Any) -> None:
    """Of caches and buffers; values are what was put in."""
    info = qbruntime.CacheInfo(qbruntime.CacheType.Batch, "k", "hash", 12, 3)
    read = (info.name, info.layer_hash, info.size, info.num_batches, info.cache_type.name)
    assert read == ("k", "hash", 12, 3, "Batch")
    buffer = qbruntime.BufferInfo(max_width=128, max_cache_size=4096)
    assert (buffer.max_width, buffer.max_cache_size) == (128, 4096)
    param = qbruntime.BatchParam(sequence_length=5, cache_size=7, cache_id=2)
    assert (param.sequence_length, param.cache_size, param.cache_id) == (5, 7, 2)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_real_configuration(qbruntime: Any, target: vendor.Target) -> None:
    """The real runtime takes every core mode as we set it."""
    made = vendor._configuration(target)
    assert made.get_core_mode().name.lower() == target.mode
    if target.core is not None:
        assert made.get_core_ids() == [
            qbruntime.CoreId(
                qbruntime.Cluster[f"Cluster{target.core[0]}"],
                qbruntime.Core[f"Core{target.core[1]}"],
            )
        ]
    if target.cluster is not None:
        assert made.get_clusters() == [qbruntime.Cluster[f"Cluster{target.cluster}"]]


def test_known_kinds_of_caches(qbruntime: Any) -> None:
    """A new kind must be looked at before its copies are cut short."""
    known = {*vendor.CROPPABLE, "FixedTailCache", "Error"}
    assert {each.name for each in qbruntime.CacheType} == known


def test_statuses_exist(qbruntime: Any) -> None:
    """The names that errors are told by stand in the library's binary."""
    binary = Path(qbruntime.qbruntime.__file__).read_bytes()
    signs = [sign for _, signs in failures._TABLE for sign in signs]
    missing = [sign for sign in (*signs, *failures._CONFIGURATION) if sign.encode() not in binary]
    assert not missing


@pytest.mark.usefixtures("qbruntime")
def test_broken_model_file(tmp_path: Path) -> None:
    """The real runtime's refusal becomes ours."""
    path = tmp_path / "broken.mxq"
    path.write_bytes(b"not a model" * 100)
    with (
        pytest.raises(ConfigurationError, match="Opening: Model_FailedToLoadMXQ occurred"),
        typed("Opening", opening=True),
    ):
        vendor.Model(path, None, vendor.Target("auto"))


@pytest.mark.usefixtures("qbruntime")
def test_without_a_board() -> None:
    """The real runtime imports and finds nothing; a session is refused."""
    if vendor.found():
        pytest.skip("there is a board in this machine")
    driver = MobilintDriver()
    assert driver.devices() == []
    assert require() in driver.version()
    with pytest.raises(ConfigurationError, match="finds no board"):
        driver.capabilities("0")
