"""Structured output: whatever the model would like to say, the answer has the form asked for."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from vllm import LLM

    from tests.conftest import Engines

SCHEMA = {
    "type": "object",
    "properties": {"fair": {"type": "boolean"}, "eyes": {"enum": ["blue", "brown"]}},
    "required": ["fair", "eyes"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= verse verse\nverse ::= ("rose" | "thorn") "\\n"'


@pytest.fixture(params=[False, True], ids=["sync", "async"], scope="module")
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def llm(engines: Engines, way: str, asynchronous: bool) -> LLM:
    return engines.scheduled("llama", way, asynchronous)


def ask(llm: LLM, **form: Any) -> str:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    params = SamplingParams(
        temperature=0, max_tokens=120, structured_outputs=StructuredOutputsParams(**form)
    )
    return str(llm.generate("My love is", params, use_tqdm=False)[0].outputs[0].text)


def test_json_schema(llm: LLM) -> None:
    answer = json.loads(ask(llm, json=SCHEMA))
    assert isinstance(answer["fair"], bool)
    assert answer["eyes"] in ("blue", "brown")


def test_regex(llm: LLM) -> None:
    assert re.fullmatch(r"[0-9]{3}-[a-f]{2}", ask(llm, regex=r"[0-9]{3}-[a-f]{2}"))


def test_choice(llm: LLM) -> None:
    assert ask(llm, choice=["summer", "winter"]) in ("summer", "winter")


def test_grammar(llm: LLM) -> None:
    assert re.fullmatch(r"((rose|thorn)\n){2}", ask(llm, grammar=GRAMMAR))


def test_requests_with_and_without_a_form_share_a_batch(llm: LLM) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    formed = SamplingParams(
        temperature=0, max_tokens=16, structured_outputs=StructuredOutputsParams(choice=["ay"])
    )
    free = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    alone = llm.generate("My love is", free, use_tqdm=False)[0].outputs[0].token_ids
    mixed = llm.generate(["My love is"] * 4, [formed, free, formed, free], use_tqdm=False)
    assert [output.outputs[0].text for output in mixed[::2]] == ["ay", "ay"]
    assert all(output.outputs[0].token_ids == alone for output in mixed[1::2])
