"""Seeded requests: a token that is thrown away leaves no trace in the generator."""

from __future__ import annotations

import numpy as np
import torch

from vllm_npu_platform.sampling.generators import GeneratorStates


def seeded(*rows: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(row) for row in rows}


def draw(generator: torch.Generator) -> float:
    return torch.rand(1, generator=generator).item()


def test_discarded_rows_draw_again_what_they_drew() -> None:
    generators, states = seeded(0, 1, 2), GeneratorStates()
    states.save(generators, np.array([0, 2]))
    thrown_away = {row: draw(generator) for row, generator in generators.items()}
    with states.rewound(generators):
        pass
    again = {row: draw(generator) for row, generator in generators.items()}
    assert [again[row] == thrown_away[row] for row in range(3)] == [True, False, True]


def test_vllm_does_not_see_what_was_rewound() -> None:
    generators, states = seeded(0, 1), GeneratorStates()
    states.save(generators, np.array([1]))
    with states.rewound(generators):
        assert set(generators) == {0}
    assert set(generators) == {0, 1}


def test_rows_without_a_seed_have_nothing_to_rewind() -> None:
    generators, states = seeded(1), GeneratorStates()
    states.save(generators, np.array([0, 1]))
    with states.rewound(generators):
        assert generators == {}
    assert set(generators) == {1}


def test_a_state_is_restored_once() -> None:
    generators, states = seeded(0), GeneratorStates()
    states.save(generators, np.array([0]))
    first = draw(generators[0])
    with states.rewound(generators):
        pass
    assert draw(generators[0]) == first
    with states.rewound(generators):
        assert set(generators) == {0}
    assert draw(generators[0]) != first


def test_generators_come_back_after_an_error() -> None:
    generators, states = seeded(0), GeneratorStates()
    states.save(generators, np.array([0]))
    try:
        with states.rewound(generators):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert set(generators) == {0}
