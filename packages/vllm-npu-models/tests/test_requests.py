"""Requests that a model can't answer are refused before they start."""

from __future__ import annotations

import pytest
from vllm import SamplingParams

from vllm_npu_models.requests import CHECK, LastTokenOnly


def test_prompt_logprobs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt_logprobs=2: .*every_token"):
        LastTokenOnly.validate_params(SamplingParams(prompt_logprobs=2))


def test_all_else_is_accepted() -> None:
    LastTokenOnly.validate_params(SamplingParams(logprobs=5, min_p=0.1, logit_bias={1: 2.0}))


def test_vllm_finds_it_by_its_name() -> None:
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters

    with pytest.raises(Exception, match="prompt_logprobs"):
        validate_logits_processors_parameters([CHECK], SamplingParams(prompt_logprobs=0))
