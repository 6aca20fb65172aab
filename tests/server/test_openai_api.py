"""A language model behind `vllm serve`, as the OpenAI client and HTTP meet it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests import oracle
from tests.prompts import mixed_prompts
from tests.server.waiting import running, wait_for
from tests.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.serve]

MODEL = "demo"
PROMPT = "Shall I compare thee to a summer's day?"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(params=["graphs_demo", "compiled_demo"], ids=["graphs", "artifact"], scope="module")
def demo(request: pytest.FixtureRequest) -> Server:
    """The model through graphs, and compiled ahead of time."""
    served: Server = request.getfixturevalue(request.param)
    return served


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Path]) -> Path:
    """The directory of what the server serves."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """The model's own."""
    return AutoTokenizer.from_pretrained(model)


def test_models_lists_the_served_name_and_length(client: openai.OpenAI) -> None:
    (card,) = client.models.list().data
    assert card.id == MODEL
    assert card.max_model_len == 512


def test_tokenize_and_detokenize_are_inverse(
    demo: Server, tokenizer: PreTrainedTokenizerBase
) -> None:
    with demo.http as http:
        asked = http.post("/tokenize", json={"model": MODEL, "prompt": PROMPT}).json()
        assert asked["tokens"] == tokenizer.encode(PROMPT)
        assert asked["count"] == len(asked["tokens"])
        back = http.post("/detokenize", json={"model": MODEL, "tokens": asked["tokens"]}).json()
    assert back["prompt"].endswith(PROMPT)


def test_version_is_the_supported_one(demo: Server) -> None:
    with demo.http as http:
        assert http.get("/version").json()["version"].startswith("0.32.")


class TestCompletions:
    """`/v1/completions`."""

    def test_greedy_tokens_equal_hugging_face(self, client: openai.OpenAI, model: Path) -> None:
        prompts = mixed_prompts(model, 12, longest=450)
        expected = oracle.greedy(model, prompts, 12)
        done = client.completions.create(
            model=MODEL,
            prompt=prompts,
            max_tokens=12,
            temperature=0,
            extra_body={"return_token_ids": True},
        )
        assert [choice.token_ids for choice in done.choices] == expected
        assert done.usage is not None
        assert done.usage.prompt_tokens == sum(map(len, prompts))
        assert done.usage.completion_tokens == sum(map(len, expected))

    def test_streamed_text_equals_whole_text(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=24, temperature=0)
        stream = client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=24, temperature=0, stream=True
        )
        parts = [chunk.choices[0].text for chunk in stream]
        assert len(parts) > 1
        assert "".join(parts) == whole.choices[0].text

    def test_n_gives_so_many_choices(self, client: openai.OpenAI) -> None:
        done = client.completions.create(
            model=MODEL, prompt=PROMPT, n=4, max_tokens=16, temperature=1.5, seed=5
        )
        assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
        assert len({choice.text for choice in done.choices}) > 1

    def test_logprobs_equal_hugging_face(self, client: openai.OpenAI, model: Path) -> None:
        (prompt,) = mixed_prompts(model, 3, longest=64)[1:2]
        done = client.completions.create(
            model=MODEL,
            prompt=prompt,
            max_tokens=4,
            temperature=0,
            logprobs=3,
            extra_body={"return_token_ids": True},
        )
        (choice,) = done.choices
        rows = oracle.logprobs(model, [*prompt, *choice.token_ids])
        expected = [
            float(rows[len(prompt) - 1 + place, token])
            for place, token in enumerate(choice.token_ids)
        ]
        assert choice.logprobs.token_logprobs == pytest.approx(expected, abs=1e-4, rel=1e-4)
        for place, top in enumerate(choice.logprobs.top_logprobs):
            best = rows[len(prompt) - 1 + place].topk(3).values.tolist()
            assert sorted(top.values(), reverse=True)[:3] == pytest.approx(best, abs=1e-4, rel=1e-4)

    def test_echo_gives_the_prompt_and_its_logprobs(
        self, client: openai.OpenAI, model: Path, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        done = client.completions.create(
            model=MODEL, prompt=PROMPT, echo=True, max_tokens=2, temperature=0, logprobs=0
        )
        (choice,) = done.choices
        ids = tokenizer.encode(PROMPT)
        rows = oracle.logprobs(model, ids)
        expected = [float(rows[place, token]) for place, token in enumerate(ids[1:])]
        assert PROMPT in choice.text
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)

    def test_stop_string_ends_a_text_before_it(self, client: openai.OpenAI) -> None:
        whole = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=32, temperature=0)
        text = whole.choices[0].text
        stop = text[8:12]
        cut = client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=32, temperature=0, stop=[stop]
        )
        assert cut.choices[0].text == text[: text.index(stop)]
        assert cut.choices[0].finish_reason == "stop"

    def test_same_seed_gives_same_text(self, client: openai.OpenAI) -> None:
        def draw(seed: int) -> str:
            done = client.completions.create(
                model=MODEL, prompt=PROMPT, max_tokens=24, temperature=1.5, seed=seed
            )
            return done.choices[0].text

        assert draw(1) == draw(1)
        assert len({draw(seed) for seed in range(4)}) > 1

    def test_a_seeded_prompt_longer_than_a_step(self, client: openai.OpenAI, model: Path) -> None:
        """Chunks of a prompt are sampled from too, and what they drew must not count."""
        prompt = mixed_prompts(model, 2, longest=400)[1]

        def draw() -> str:
            done = client.completions.create(
                model=MODEL, prompt=prompt, max_tokens=16, temperature=1.5, seed=3
            )
            return done.choices[0].text

        assert draw() == draw()

    @pytest.mark.parametrize(
        "field", ["repetition_penalty", "presence_penalty", "frequency_penalty"]
    )
    def test_penalties_suppress_repetition(self, client: openai.OpenAI, field: str) -> None:
        def distinct(**fields: float) -> int:
            done = client.completions.create(
                model=MODEL,
                prompt=PROMPT,
                max_tokens=48,
                temperature=0,
                extra_body={"return_token_ids": True, "ignore_eos": True, **fields},
            )
            return len(set(done.choices[0].token_ids))

        assert distinct(**{field: 2.0}) > distinct()

    def test_min_p_of_one_is_greedy(self, client: openai.OpenAI) -> None:
        def text(temperature: float, **fields: float) -> str:
            done = client.completions.create(
                model=MODEL,
                prompt=PROMPT,
                max_tokens=16,
                temperature=temperature,
                extra_body=fields,
            )
            return done.choices[0].text

        assert text(1.5, min_p=1.0) == text(0.0)

    def test_logit_bias_forces_a_token(self, client: openai.OpenAI) -> None:
        done = client.completions.create(
            model=MODEL,
            prompt=PROMPT,
            max_tokens=3,
            temperature=0,
            logit_bias={"42": 100},
            extra_body={"return_token_ids": True},
        )
        assert done.choices[0].token_ids == [42, 42, 42]


class TestChat:
    """`/v1/chat/completions`."""

    MESSAGES = ({"role": "user", "content": "When forty winters shall besiege thy brow"},)

    def test_streamed_equals_whole_and_reports_usage(self, client: openai.OpenAI) -> None:
        asked = {
            "model": MODEL,
            "messages": self.MESSAGES,
            "max_completion_tokens": 24,
            "temperature": 0,
        }
        whole = client.chat.completions.create(**asked)
        stream = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        parts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert whole.choices[0].message.content
        assert "".join(parts) == whole.choices[0].message.content
        assert chunks[-1].usage == whole.usage

    def test_prompt_follows_the_chat_template(
        self, client: openai.OpenAI, model: Path, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        ids = tokenizer.apply_chat_template(
            list(self.MESSAGES), add_generation_prompt=True, return_dict=False
        )
        (expected,) = oracle.greedy(model, [ids], 12)
        done = client.chat.completions.create(
            model=MODEL, messages=self.MESSAGES, max_completion_tokens=12, temperature=0
        )
        text = tokenizer.decode(expected, skip_special_tokens=True)
        assert done.choices[0].message.content == text

    def test_parallel_clients_get_what_each_gets_alone(self, client: openai.OpenAI) -> None:
        """More at once than the engine runs at once."""

        def ask(number: int) -> str | None:
            done = client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Thy brow and " * number + "winter"}],
                max_completion_tokens=16,
                temperature=0,
            )
            return done.choices[0].message.content

        numbers = range(1, 25)
        with ThreadPoolExecutor(len(numbers)) as pool:
            together = list(pool.map(ask, numbers))
        assert together == [ask(number) for number in numbers]


class TestStructuredOutput:
    """Answers of a given form, by both of the fields that ask for them."""

    def ask(self, client: openai.OpenAI, **fields: object) -> str:
        done = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Who is it?"}],
            max_completion_tokens=128,
            temperature=0,
            **fields,
        )
        assert done.choices[0].finish_reason == "stop"
        return done.choices[0].message.content or ""

    def test_response_format_json_schema(self, client: openai.OpenAI) -> None:
        schema = {"name": "person", "schema": PERSON, "strict": True}
        text = self.ask(client, response_format={"type": "json_schema", "json_schema": schema})
        person = json.loads(text)
        assert set(person) == {"name", "age"}
        assert len(person["name"]) <= 8
        assert 1 <= person["age"] <= 99

    @pytest.mark.parametrize(
        ("constraint", "allowed"),
        [
            pytest.param({"choice": ["summer", "winter"]}, {"summer", "winter"}, id="choice"),
            pytest.param(
                {"regex": "(rose|thorn)[!?]"}, {"rose!", "rose?", "thorn!", "thorn?"}, id="regex"
            ),
            pytest.param({"grammar": 'root ::= "love" | "time"'}, {"love", "time"}, id="grammar"),
        ],
    )
    def test_structured_outputs(
        self, client: openai.OpenAI, constraint: dict[str, object], allowed: set[str]
    ) -> None:
        text = self.ask(client, extra_body={"structured_outputs": constraint})
        assert text in allowed

    def test_structured_outputs_json(self, client: openai.OpenAI) -> None:
        text = self.ask(client, extra_body={"structured_outputs": {"json": PERSON}})
        assert set(json.loads(text)) == {"name", "age"}

    def test_an_impossible_schema_is_refused(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            self.ask(client, extra_body={"structured_outputs": {"regex": "(unclosed"}})


class TestBadRequests:
    """Each is refused with HTTP 400, names what is wrong, and leaves others alone."""

    def test_a_prompt_over_the_limit(self, client: openai.OpenAI, model: Path) -> None:
        prompt = mixed_prompts(model, 2, longest=600)[1]
        with pytest.raises(openai.BadRequestError, match="512"):
            client.completions.create(model=MODEL, prompt=prompt, max_tokens=1)

    def test_more_tokens_than_the_limit(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="512"):
            client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=600)

    def test_multimodal_input(self, client: openai.OpenAI) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        with pytest.raises(openai.BadRequestError, match="multimodal"):
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": [image]}]
            )

    def test_a_token_outside_of_the_vocabulary(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="vocabulary"):
            client.completions.create(model=MODEL, prompt=[1, 100000], max_tokens=1)

    def test_a_model_that_is_not_served(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="another"):
            client.completions.create(model="another", prompt=PROMPT)

    def test_an_adapter_that_is_not_served(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="my-lora"):
            client.completions.create(model="my-lora", prompt=PROMPT)

    def test_others_are_served_meanwhile(self, client: openai.OpenAI, model: Path) -> None:
        too_long = mixed_prompts(model, 2, longest=600)[1]

        def ask(prompt: str | list[int]) -> str | None:
            try:
                done = client.completions.create(
                    model=MODEL, prompt=prompt, max_tokens=16, temperature=0
                )
            except openai.BadRequestError:
                return None
            return done.choices[0].text

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, [PROMPT, too_long] * 8))
        assert answers[1::2] == [None] * 8
        assert set(answers[::2]) == {ask(PROMPT)} != {None}


def test_a_client_that_goes_away_frees_its_place(demo: Server, client: openai.OpenAI) -> None:
    def tokens_after_leaving() -> float:
        before = demo.metrics()["vllm:generation_tokens_total"]
        stream = client.completions.create(
            model=MODEL,
            prompt=PROMPT,
            max_tokens=480,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        stream.close()
        wait_for(lambda: running(demo) == 0)
        return demo.metrics()["vllm:generation_tokens_total"] - before

    # The server may be done before it hears of it, but hardly each time.
    assert any(tokens_after_leaving() < 480 for _ in range(5))
    assert client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2).choices
