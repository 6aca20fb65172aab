"""Operators that OpenVINO doesn't convert run on the host."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("openvino")

from vllm_npu_runtime.openvino.convert import _named

from .programs import DRIVER, load, make


def test_host_operator_between_pieces() -> None:
    """It is listed, and its neighbours run on the device."""
    x = torch.rand(4, 8)
    executable = load(make(lambda x: torch.lgamma(x * 2 + 1) * 3, x=x), {"x": x})
    assert executable.host_operators == ("aten.lgamma",)
    for _ in range(2):
        torch.testing.assert_close(executable.run()[0], torch.lgamma(x * 2 + 1) * 3)
        x.add_(1)


def test_weights_of_pieces() -> None:
    """Bound anew, they take effect in the piece that reads them."""
    x, w = torch.rand(4, 8), torch.rand(8, 8)
    executable = load(make(lambda x, w: torch.lgamma(x @ w + 1) @ w, x=x, w=w), {"x": x})
    torch.testing.assert_close(executable.run()[0], torch.lgamma(x @ w + 1) @ w)
    w = torch.rand(8, 8)
    executable.bind({"w": w})
    torch.testing.assert_close(executable.run()[0], torch.lgamma(x @ w + 1) @ w)


def test_host_result_may_be_strided() -> None:
    """What the host hands over lies as PyTorch left it."""
    x = torch.rand(6, 8)
    executable = load(
        make(lambda x: torch.linalg.cholesky(x.t() @ x + torch.eye(8)) @ x.t(), x=x), {"x": x}
    )
    assert "aten.linalg_cholesky_ex" in executable.host_operators
    expected = torch.linalg.cholesky(x.t() @ x + torch.eye(8)) @ x.t()
    torch.testing.assert_close(executable.run()[0], expected)


def test_checks_are_not_left_out() -> None:
    """An operator that gives nothing but an error runs on the host, too."""
    x = torch.zeros(6, 8)
    executable = load(make(lambda x: torch.linalg.cholesky(x.t() @ x) @ x.t(), x=x), {"x": x})
    with pytest.raises(RuntimeError, match="positive-definite"):
        executable.run()


def test_rows_vary() -> None:
    """Pieces take any number of rows, too."""
    x = torch.rand(64, 8)
    executable = load(make(lambda x: torch.lgamma(x * 2 + 1) * 3, most=64, x=x), {"x": x})
    for count in (64, 1, 7, 64):
        rows = x[:count]
        executable.bind({"x": rows})
        torch.testing.assert_close(executable.run()[0], torch.lgamma(rows * 2 + 1) * 3)


def test_pieces_are_not_saved(tmp_path: object) -> None:
    """`save` says so, and leaves nothing behind."""
    x = torch.rand(4, 8)
    executable = load(make(lambda x: torch.lgamma(x), x=x), {"x": x})
    assert not DRIVER.save(executable, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("report", "names"),
    [
        (
            "Model wasn't fully converted.\n"
            "-- No conversion rule found for operations: aten.eye.default, aten.histc.default.",
            {"aten.eye", "aten.histc"},
        ),
        ("-- aten.mm.default with a message:\nwrong", {"aten.mm"}),
        ("something else", {"something else"}),
    ],
)
def test_names_in_a_report(report: str, names: set[str]) -> None:
    """As the frontend writes them."""
    assert _named(report) == names
