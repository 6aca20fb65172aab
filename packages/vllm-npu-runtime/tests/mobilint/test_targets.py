"""Which cores a model runs on: the user's, then the model's, then all of the board."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_npu_runtime.mobilint.config import MobilintConfig
from vllm_npu_runtime.mobilint.targets import core_mode, of_user, targets
from vllm_npu_runtime.mobilint.vendor import Target
from vllm_npu_runtime.sessions.base import Placement


def chosen(
    config: dict[str, Any], placement: dict[str, Any], kind: str = "aries-rb", board: int = 0
) -> list[Target]:
    """Where copies go."""
    whole = {"architectures": (), "hidden_size": 1, "vocab_size": 1, "mxq_path": "m.mxq"}
    read = MobilintConfig.model_validate(whole | config)
    users = of_user(read, Placement(**placement))
    return targets(kind, board, core_mode(read, users), read, users)


def single(*cores: tuple[int, int]) -> list[Target]:
    """Targets in single mode."""
    return [Target("single", core=core) for core in cores]


@pytest.mark.parametrize(
    ("config", "placement", "wanted"),
    [
        # Nobody says anything; the model does; as it did before there were core modes.
        ({}, {}, [Target("auto")]),
        ({"core_mode": "auto", "target_cores": ["0:0"]}, {}, [Target("auto")]),
        ({"target_cores": ["0:0"]}, {}, single((0, 0))),
        ({"core_mode": "single", "target_cores": ["1:0", "1:2"]}, {}, single((1, 0), (1, 2))),
        ({"core_mode": "single", "target_cores": {"single": ["1:3"]}}, {}, single((1, 3))),
        ({"core_mode": "global4", "target_clusters": [1]}, {}, [Target("global4", cluster=1)]),
        ({"core_mode": "global4", "target_clusters": 1}, {}, [Target("global4", cluster=1)]),
        ({"core_mode": "global4", "target_clusters": ["0:1"]}, {}, [Target("global4", cluster=1)]),
        ({"core_mode": "global8", "target_clusters": [0, 1]}, {}, [Target("global8")]),
        # Without cores: every one in turn.
        ({"core_mode": "single"}, {}, single(*((c, k) for c in (0, 1) for k in range(4)))),
        ({"core_mode": "multi"}, {}, [Target("multi", cluster=each) for each in (0, 1)]),
        # The user comes first.
        ({"core_mode": "auto"}, {"target_cores": ("1:0",)}, single((1, 0))),
        ({}, {"target_cores": ("1:0",)}, single((1, 0))),
        (
            {"core_mode": "single", "target_cores": ["0:0"]},
            {"core_mode": "global4", "target_clusters": (0,)},
            [Target("global4", cluster=0)],
        ),
        # What a caller repeats of config.json isn't the user's.
        (
            {"core_mode": "single", "target_cores": ["0:0"]},
            {"core_mode": "global4", "target_cores": ("0:0",), "target_clusters": (1,)},
            [Target("global4", cluster=1)],
        ),
        # Boards may stand before cores; the same one twice is one.
        ({"target_cores": ["0:0:1", "1:0:2", "0:0:1"]}, {}, single((0, 1))),
    ],
)
def test_targets(config: dict[str, Any], placement: dict[str, Any], wanted: list[Target]) -> None:
    """On a board with two clusters of four cores."""
    assert chosen(config, placement) == wanted


def test_places_of_another_board() -> None:
    """The second of two."""
    cores = {"core_mode": "single", "target_cores": ["0:0:1", "1:0:2"]}
    assert chosen(cores, {}, board=1) == single((0, 2))


def test_board_with_one_core() -> None:
    """There is no choice."""
    assert chosen({"core_mode": "single"}, {}, kind="regulus-ra") == single((0, 0))
