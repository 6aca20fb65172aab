"""Which board, and which of its cores, a model runs on."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.mobilint.config import MobilintConfig, check_mode, in_mode
from vllm_npu_runtime.mobilint.vendor import Target
from vllm_npu_runtime.sessions.base import Placement

# Clusters, and cores in each, by the beginning of a board's kind.
GEOMETRY = {"aries": (2, 4), "regulus": (1, 1)}
_OF_CLUSTERS = ("multi", "global4", "global8")


def of_user(config: MobilintConfig, placement: Placement) -> Placement:
    """A placement without what only repeats the model's own `config.json`.

    So that a user who names another core mode needn't name cores too, to be rid of those that
    the model names for its own mode.
    """
    mode = placement.core_mode or config.core_mode or "auto"

    def same(given: Sequence[int | str], own: Sequence[int | str] | None) -> bool:
        return [str(each) for each in given] == [str(each) for each in own or ()]

    repeats_mode = placement.core_mode == config.core_mode
    repeats_cores = any(
        same(placement.target_cores, in_mode(config.target_cores, each))
        for each in (mode, "single")
    )
    repeats_clusters = any(
        same(placement.target_clusters, in_mode(config.target_clusters, each))
        for each in (mode, *_OF_CLUSTERS)
    )
    return Placement(
        dev_no=() if same(placement.dev_no, in_mode(config.dev_no, mode)) else placement.dev_no,
        core_mode=None if repeats_mode else placement.core_mode,
        target_cores=() if repeats_cores else placement.target_cores,
        target_clusters=() if repeats_clusters else placement.target_clusters,
    )


def board_number(config: MobilintConfig, placement: Placement, mode: str, device: int) -> int:
    """The board that a session opens on: the user's, the model's, or that of the device.

    Args:
        config: of the model. A 0 there is what is written when nobody chose.
        placement: of the user alone.
        mode: core mode.
        device: number of the board that the device's name says.

    Raises:
        ConfigurationError: several boards.
    """
    boards = list(placement.dev_no) or in_mode(config.dev_no, mode) or [0]
    if len(boards) > 1:
        raise ConfigurationError(
            f"dev_no is {boards}: one session runs on one board. Name them all in "
            "--model-loader-extra-config, where each gets a share of the slots."
        )
    return boards[0] if placement.dev_no or boards[0] else device


def core_mode(config: MobilintConfig, placement: Placement) -> str:
    """The core mode that is in force.

    Raises:
        ConfigurationError: unknown, or it doesn't go with the cores or clusters asked for.
    """
    mode = config.core_mode
    if placement.core_mode is not None:
        mode = check_mode(placement.core_mode)
    elif placement.target_cores and mode in (None, "auto"):
        mode = "single"
    elif mode is None:
        mode = "single" if config.target_cores else "auto"
    problems = []
    if placement.target_cores and mode != "single":
        problems.append(
            f"target_cores {list(placement.target_cores)} go with core_mode 'single'; it is "
            f"'{mode}'. Leave them out, or set core_mode to 'single'."
        )
    if placement.target_clusters and mode not in _OF_CLUSTERS:
        problems.append(
            f"target_clusters {list(placement.target_clusters)} go with core_mode "
            f"{', '.join(_OF_CLUSTERS)}; it is '{mode}'. Leave them out, or set core_mode."
        )
    if problems:
        raise ConfigurationError.several(problems)
    return mode


def targets(
    kind: str, board: int, mode: str, config: MobilintConfig, placement: Placement
) -> list[Target]:
    """Where copies of the model go, one after the other and round again.

    A model with a KV cache runs on one core, one cluster or the whole board; what is named here
    beyond that serves further copies.

    Args:
        kind: of the board, as "aries-rb".
        board: its number.
        mode: core mode.
        config: of the model.
        placement: of the user, which comes first.

    Raises:
        ConfigurationError: the board has no such core or cluster, or doesn't know the mode.
    """
    clusters, cores = _geometry(kind)
    if clusters == 1 and mode in _OF_CLUSTERS:
        raise ConfigurationError(
            f"Core mode '{mode}': a board of kind {kind} has one core. Set core_mode to 'single'."
        )
    if mode == "auto":
        return [Target(mode)]
    if mode == "single":
        own_cores = in_mode(config.target_cores, mode)
        cores_named: Sequence[int | str] = placement.target_cores or own_cores or ()
        places = _on_board("target_cores", cores_named, 2, board)
        _check("target_cores", places, (clusters, cores), kind)
        every = [(cluster, core) for cluster in range(clusters) for core in range(cores)]
        return [Target(mode, core=(place[0], place[1])) for place in places or every]
    own_clusters = in_mode(config.target_clusters, mode)
    named: Sequence[int | str] = placement.target_clusters or own_clusters or ()
    places = _on_board("target_clusters", named, 1, board)
    _check("target_clusters", places, (clusters,), kind)
    chosen = [place[0] for place in places] or list(range(clusters))
    if mode != "global8":
        return [Target(mode, cluster=cluster) for cluster in chosen]
    if set(chosen) != set(range(clusters)):
        raise ConfigurationError(
            f"target_clusters {chosen}: core mode 'global8' takes both clusters. Name [0, 1], or "
            "none."
        )
    return [Target(mode)]


def _geometry(kind: str) -> tuple[int, int]:
    for beginning, shape in GEOMETRY.items():
        if kind.startswith(beginning):
            return shape
    raise ConfigurationError(f"A board of kind '{kind}' isn't known; known: {', '.join(GEOMETRY)}.")


def _on_board(
    field: str, named: Sequence[int | str], width: int, board: int
) -> list[tuple[int, ...]]:
    """The places on a board: its number may stand before each; others' places are left out."""
    found = []
    for name in named:
        parts = str(name).split(":")
        if not all(part.isdecimal() for part in parts) or len(parts) not in (width, width + 1):
            form = "cluster:core" if width == 2 else "cluster"
            raise ConfigurationError(
                f"{field} has '{name}': write '{form}' or 'board:{form}', in numbers."
            )
        numbers = tuple(int(part) for part in parts)
        if len(numbers) == width or numbers[0] == board:
            found.append(numbers[-width:])
    if named and not found:
        raise ConfigurationError(
            f"{field} {list(named)} are all on other boards than {board}. Name some on board "
            f"{board}, or set dev_no."
        )
    return list(dict.fromkeys(found))


def _check(
    field: str, places: Sequence[tuple[int, ...]], limits: tuple[int, ...], kind: str
) -> None:
    for place in places:
        if any(number >= limit for number, limit in zip(place, limits, strict=True)):
            most = ":".join(str(limit - 1) for limit in limits)
            raise ConfigurationError(
                f"{field} has '{':'.join(map(str, place))}': a board of kind {kind} goes up to "
                f"'{most}'."
            )
