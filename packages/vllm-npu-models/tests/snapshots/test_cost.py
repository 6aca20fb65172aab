"""Load or recompute: by what was measured."""

from __future__ import annotations

import pytest

from vllm_npu_models.snapshots.cost import RETRY, Average, CostModel
from vllm_npu_models.snapshots.operations import Report, Spent


def _model(load: float | None, prefill: float | None) -> CostModel:
    model = CostModel(margin=0.9)
    report = Report()
    if load is not None:
        report.loads.add(100, 100 * load)
    if prefill is not None:
        report.prefill.add(100, 100 * prefill)
    model.take(report)
    return model


@pytest.mark.parametrize(
    ("load", "prefill", "worth"),
    [
        (1.0, 2.0, True),
        (1.7, 2.0, True),
        (1.8, 2.0, False),  # Not less than nine tenths.
        (3.0, 2.0, False),
        (None, 2.0, True),  # Nothing measured: try it.
        (3.0, None, True),
    ],
)
def test_a_load_must_take_less_than_its_share_of_prefill(
    load: float | None, prefill: float | None, worth: bool
) -> None:
    model = _model(load, prefill)
    assert model.worth(model.loads, 64) is worth


def test_the_newest_measurement_counts_three_tenths() -> None:
    average = Average()
    for milliseconds in (100.0, 200.0):
        average.add(Spent(10, milliseconds))
    assert average.value == pytest.approx(10 + 0.3 * 10)
    average.add(Spent(0, 99.0))
    assert average.value == pytest.approx(13)


def test_now_and_then_a_refusal_is_none_so_that_it_is_measured_anew() -> None:
    model = _model(3.0, 2.0)
    answers = [model.refused() for _ in range(2 * RETRY)]
    assert answers.count(False) == 2
    assert not answers[RETRY - 1]
