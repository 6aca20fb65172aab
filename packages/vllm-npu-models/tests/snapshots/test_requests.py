"""How much of a request is left in its slot."""

from __future__ import annotations

from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus

from vllm_npu_models.snapshots.requests import Prefixes

from .fakes import BLOCK

PROMPT = list(range(100, 110))


def _request(outputs: int, **more: Any) -> Request:
    request = Request("1", list(PROMPT), SamplingParams(max_tokens=9), None, **more)
    request.append_output_token_ids(list(range(outputs)))
    return request


@pytest.mark.parametrize(
    ("outputs", "computed", "left"),
    [
        (3, 12, 12),  # The last token was sampled, and not computed.
        (3, 14, 12),  # Steps scheduled ahead, or drafts, are counted already.
        (0, 6, 6),  # Aborted in the middle of the prompt.
        (0, 10, 9),
        (0, 0, 0),
    ],
)
def test_it_is_what_was_computed_of_the_tokens_that_are_known(
    outputs: int, computed: int, left: int
) -> None:
    prefixes, request = Prefixes(BLOCK), _request(outputs)
    prefixes.of(request)
    request.num_computed_tokens = computed
    request.status = RequestStatus.FINISHED_ABORTED
    prefix = prefixes.left_by(request)
    assert prefix is not None
    assert prefix.symbols == [*PROMPT, *range(outputs)][:left]


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        (RequestStatus.FINISHED_STOPPED, True),
        (RequestStatus.FINISHED_LENGTH_CAPPED, True),
        (RequestStatus.FINISHED_REPETITION, True),
        (RequestStatus.FINISHED_ERROR, False),
        (RequestStatus.FINISHED_IGNORED, False),
    ],
)
def test_it_is_kept_unless_something_went_wrong(status: RequestStatus, kept: bool) -> None:
    request = _request(3)
    request.num_computed_tokens, request.status = 12, status
    assert (Prefixes(BLOCK).left_by(request) is not None) is kept


def test_tokens_that_came_since_are_known_too() -> None:
    prefixes, request = Prefixes(BLOCK), _request(0)
    prefixes.of(request)
    request.append_output_token_ids([1, 2, 3])
    prefix = prefixes.of(request)
    assert prefix is not None
    assert prefix.symbols == [*PROMPT, 1, 2, 3]
