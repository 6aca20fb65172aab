"""A decoder that was compiled ahead of time is used where it fits, and only there.

The NPU's pipeline runs on the host's processor here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from vllm_npu_runtime.artifact.directory import Artifact
from vllm_npu_runtime.artifact.manifest import Blob
from vllm_npu_runtime.artifact.writing import records_of, write_manifest
from vllm_npu_runtime.drivers.openvino import OpenVINODriver
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.sessions.base import Row, SessionOptions
from vllm_npu_runtime.sessions.opening import open_session

USED = "compiled ahead of time"
NOT_USED = "decoder.blob isn't used"
ON_HOST = {"npuw_devices": "CPU", "npuw_online_pipeline": "NONE"}
MAX_LENGTH = 200

Lines = Callable[[], list[str]]

pytestmark = pytest.mark.usefixtures("float32_through_npuw")


@pytest.fixture(params=["llama", "exaone4"])
def kind(request: pytest.FixtureRequest) -> str:
    """Full attention, and windows."""
    return str(request.param)


@pytest.fixture
def plain(compiled: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """An artifact for an NPU, without a blob."""
    return lambda kind="llama": compiled(kind, device="openvino:NPU", max_model_len=MAX_LENGTH)


@pytest.fixture
def blobbed(plain: Callable[..., Artifact], tmp_path: Path) -> Callable[..., Path]:
    """A copy of it with a blob; its directory."""
    from vllm_npu_runtime.openvino.sessions.static import decoder

    def make(kind: str = "llama") -> Path:
        directory = tmp_path / kind
        copytree(plain(kind).directory, directory)
        options = SessionOptions(1, driver=ON_HOST)
        made = decoder(Artifact.open(directory), "NPU", options).export("decoder.blob")
        listed(directory, made)
        return directory

    return make


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Lines:
    """The lines that tell of blobs since the last call."""
    caplog.set_level(logging.INFO, "vllm.npu")

    def lines() -> list[str]:
        found = [each for each in caplog.messages if "decoder.blob" in each]
        caplog.clear()
        return found

    return lines


def listed(directory: Path, blob: Blob) -> None:
    """Write the manifest of a directory into which a blob was put."""
    manifest = Artifact.open(directory, verify=False).manifest
    (directory / "npu_artifact.json").unlink()
    changes = {"blobs": {"decoder": blob}, "files": records_of(directory)}
    write_manifest(directory, manifest.model_copy(update=changes))


def states(directory: Path, tokens: torch.Tensor, device: str = "NPU", **options: Any) -> Any:
    """Hidden states of a prompt and of tokens that go on from it."""
    options = {"driver": ON_HOST if device == "NPU" else {}} | options
    session = OpenVINODriver().open_session(directory, device, SessionOptions(1, **options))
    rows = [Row(0, 0, tokens[:50]), Row(0, 50, tokens[50:51]), Row(0, 51, tokens[51:53])]
    values = [session.infer([row]).values.clone() for row in rows]
    session.close()
    return torch.cat(values)


def test_same_hidden_states(
    plain: Callable[..., Artifact],
    blobbed: Callable[..., Path],
    log: Lines,
    tokens: torch.Tensor,
    kind: str,
) -> None:
    """With the blob as without, to the bit."""
    wanted = states(plain(kind).directory, tokens)
    assert not log()
    found = states(blobbed(kind), tokens)
    (line,) = log()
    assert USED in line
    assert torch.equal(found, wanted)


def test_it_is_listed(blobbed: Callable[..., Path]) -> None:
    """With size and checksum as every file, and what compiled it."""
    artifact = Artifact.open(blobbed())
    blob = artifact.manifest.blobs["decoder"]
    assert blob.fingerprint == OpenVINODriver().fingerprint("NPU")
    size = (artifact.directory / "decoder.blob").stat().st_size
    assert artifact.manifest.files[blob.file].size == size > 0


@pytest.mark.parametrize(
    "options",
    [{"driver": {**ON_HOST, "npuw_fold": False}}, {"max_length": 100}],
    ids=["driver", "length"],
)
def test_other_options(
    blobbed: Callable[..., Path],
    plain: Callable[..., Artifact],
    log: Lines,
    tokens: torch.Tensor,
    options: dict[str, Any],
) -> None:
    """The graph is compiled with them, and a line says so."""
    found = states(blobbed(), tokens, **options)
    (line,) = log()
    assert NOT_USED in line and "other options" in line
    assert torch.equal(found, states(plain().directory, tokens, **options))


def test_other_driver_or_device(
    blobbed: Callable[..., Path],
    log: Lines,
    tokens: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line names both fingerprints."""
    directory = blobbed()
    wanted = states(directory, tokens)
    log()
    monkeypatch.setattr(OpenVINODriver, "fingerprint", lambda *_: "a later driver")
    found = states(directory, tokens)
    (line,) = log()
    assert NOT_USED in line and "this is 'a later driver'" in line
    assert Artifact.open(directory).manifest.blobs["decoder"].fingerprint in line
    assert torch.equal(found, wanted)


def test_damage(blobbed: Callable[..., Path]) -> None:
    """Is found by the checksum, as in every other file."""
    directory = blobbed()
    content = bytearray((directory / "decoder.blob").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "decoder.blob").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"'decoder\.blob' was altered"):
        open_session(directory, None, SessionOptions(1))


@pytest.mark.parametrize("content", [b"", b"no blob at all" * 100], ids=["empty", "text"])
def test_what_openvino_refuses(
    blobbed: Callable[..., Path],
    plain: Callable[..., Artifact],
    log: Lines,
    tokens: torch.Tensor,
    content: bytes,
) -> None:
    """The graph is compiled instead, and a line says why."""
    directory = blobbed()
    blob = Artifact.open(directory).manifest.blobs["decoder"]
    (directory / "decoder.blob").write_bytes(content)
    path = directory / "npu_artifact.json"
    text = Artifact.open(plain().directory).manifest.model_dump_json()
    path.write_text(text)
    listed(directory, blob)
    found = states(directory, tokens)
    (line,) = log()
    assert NOT_USED in line
    assert torch.equal(found, states(plain().directory, tokens))


def test_paged_attention_is_refused_by_openvino(
    compiled: Callable[..., Artifact], log: Lines, tokens: torch.Tensor, tmp_path: Path
) -> None:
    """Why `--blob` isn't for CPUs: what is exported can't be imported.

    When this fails, OpenVINO has learnt it, and `export.request` may allow it.
    """
    from vllm_npu_runtime.openvino.sessions.paged import decoder

    directory = copytree(compiled().directory, tmp_path / "artifact")
    made = decoder(Artifact.open(directory), "CPU", SessionOptions(1)).export("decoder.blob")
    listed(directory, made)
    found = states(directory, tokens, "CPU")
    (line,) = log()
    assert NOT_USED in line and "k_head_size" in line
    assert torch.equal(found, states(compiled().directory, tokens, "CPU"))


@pytest.mark.parametrize(
    "options",
    [
        {"driver": {"threads": 1}},
        {"driver": {"precision": "bf16"}},
        {"kv_cache_dtype": torch.float16},
        {"kv_cache_dtype": torch.uint8},
    ],
    ids=str,
)
def test_options_of_a_cpu(
    compiled: Callable[..., Artifact], log: Lines, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Threads, arithmetic and KV dtype are in the digest too."""
    from vllm_npu_runtime.openvino.devices import precisions
    from vllm_npu_runtime.openvino.sessions.paged import decoder

    if "precision" in options.get("driver", {}) and torch.bfloat16 not in precisions("CPU"):
        pytest.skip("this processor, or the one that is pretended, has a single arithmetic")
    directory = copytree(compiled().directory, tmp_path / "artifact")
    made = decoder(Artifact.open(directory), "CPU", SessionOptions(1)).export("decoder.blob")
    listed(directory, made)
    OpenVINODriver().open_session(directory, "CPU", SessionOptions(1, **options)).close()
    (line,) = log()
    assert "other options (threads" in line


def test_other_devices_do_without(blobbed: Callable[..., Path], tokens: torch.Tensor) -> None:
    """The reference opens the artifact as any."""
    session = open_session(blobbed(), "reference", SessionOptions(1))
    assert session.infer([Row(0, 0, tokens[:5])]).values.isfinite().all()
    session.close()
