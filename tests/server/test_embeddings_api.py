"""Pooling models behind `vllm serve`: embeddings, scores, ranks and classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from transformers import AutoTokenizer

from tests import oracle
from tests.prompts import SONNETS, mixed_prompts
from tests.server.conftest import COMMON, STRICT
from tests.serving import Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.serve]

MODEL = "pooling"
ARGUMENTS = (*COMMON, "--served-model-name", MODEL, "--max-model-len", 256)
LINES = [line for line in SONNETS.read_text().splitlines() if line][:6]


class TestEmbeddings:
    """BERT, an encoder: one run for a prompt, and no KV cache."""

    def test_they_equal_hugging_face(self, encoder: Server, bert: Path) -> None:
        ids = [AutoTokenizer.from_pretrained(bert).encode(line) for line in LINES]
        answer = encoder.openai.embeddings.create(model=MODEL, input=LINES)
        for given, line in zip(answer.data, ids, strict=True):
            expected = oracle.embed(bert, line, "cls", normalize=True)
            np.testing.assert_allclose(given.embedding, expected.numpy(), atol=1e-4)

    def test_prompts_of_mixed_lengths_in_parallel(self, encoder: Server, bert: Path) -> None:
        prompts = mixed_prompts(bert, 12, longest=250)

        def ask(prompt: list[int]) -> list[float]:
            answer = encoder.openai.embeddings.create(model=MODEL, input=prompt)
            return answer.data[0].embedding

        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(ask, prompts))
        for given, prompt in zip(answers, prompts, strict=True):
            expected = oracle.embed(bert, prompt, "cls", normalize=True)
            np.testing.assert_allclose(given, expected.numpy(), atol=1e-4)

    def test_base64_is_what_floats_are(self, encoder: Server) -> None:
        create = encoder.openai.embeddings.create
        floats = create(model=MODEL, input=LINES[0], encoding_format="float")
        packed = create(model=MODEL, input=LINES[0])
        np.testing.assert_allclose(floats.data[0].embedding, packed.data[0].embedding, atol=1e-6)

    def test_a_prompt_over_the_limit_is_refused(self, encoder: Server, bert: Path) -> None:
        prompt = mixed_prompts(bert, 2, longest=300)[1]
        with pytest.raises(openai.BadRequestError, match="256"):
            encoder.openai.embeddings.create(model=MODEL, input=prompt)
        assert encoder.openai.embeddings.create(model=MODEL, input=LINES[0]).data

    def test_completions_are_refused(self, encoder: Server) -> None:
        with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
            encoder.openai.completions.create(model=MODEL, prompt=LINES[0])

    def test_metrics_count_the_runs(self, encoder: Server) -> None:
        metrics = encoder.metrics()
        assert metrics["vllm_npu:bucket_hits_total"] > 0
        assert metrics["vllm_npu:graphs_compiled_late_total"] == 0


class TestCrossEncoder:
    """BERT with a head that rates pairs."""

    def test_score_equals_hugging_face(self, cross_encoder: Server, ratings: list[float]) -> None:
        with cross_encoder.http as http:
            asked = {"model": MODEL, "text_1": LINES[0], "text_2": LINES[1:]}
            data = http.post("/score", json=asked).raise_for_status().json()["data"]
        assert [each["score"] for each in data] == pytest.approx(ratings, abs=1e-4)

    def test_rerank_sorts_by_score(self, cross_encoder: Server, ratings: list[float]) -> None:
        with cross_encoder.http as http:
            asked = {"model": MODEL, "query": LINES[0], "documents": LINES[1:], "top_n": 3}
            results = http.post("/rerank", json=asked).raise_for_status().json()["results"]
        best = sorted(range(len(ratings)), key=lambda place: -ratings[place])[:3]
        assert [each["index"] for each in results] == best
        scores = [each["relevance_score"] for each in results]
        assert scores == pytest.approx([ratings[place] for place in best], abs=1e-4)

    def test_classify_equals_hugging_face(
        self, cross_encoder: Server, tiny_model: Callable[[str], Path]
    ) -> None:
        model = tiny_model("bert-cross")
        tokenizer = AutoTokenizer.from_pretrained(model)
        with cross_encoder.http as http:
            asked = {"model": MODEL, "input": LINES}
            data = http.post("/classify", json=asked).raise_for_status().json()["data"]
        for given, line in zip(data, LINES, strict=True):
            expected = oracle.classify(model, tokenizer.encode(line))
            assert given["probs"] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.fixture(scope="module")
def bert(tiny_model: Callable[[str], Path]) -> Path:
    """The encoder's directory."""
    return tiny_model("bert")


@pytest.fixture(scope="module")
def encoder(bert: Path, logs: Path, forks: None) -> Iterator[Server]:
    """BERT without a head."""
    arguments = (*ARGUMENTS, "--runner", "pooling")
    log = logs / "encoder.log"
    with serve(bert, *arguments, env=STRICT, log=log, forked=True) as server:
        yield server


@pytest.fixture(scope="module")
def cross_encoder(tiny_model: Callable[[str], Path], logs: Path, forks: None) -> Iterator[Server]:
    """BERT with a head of one class."""
    model = tiny_model("bert-cross")
    log = logs / "cross-encoder.log"
    with serve(model, *ARGUMENTS, env=STRICT, log=log, forked=True) as server:
        yield server


@pytest.fixture(scope="module")
def ratings(tiny_model: Callable[[str], Path]) -> list[float]:
    """What Hugging Face gives the first line with each of the others."""
    model = tiny_model("bert-cross")
    tokenizer = AutoTokenizer.from_pretrained(model)
    pairs = [tokenizer(LINES[0], line) for line in LINES[1:]]
    scores = [oracle.classify(model, pair.input_ids, pair.token_type_ids) for pair in pairs]
    return [float(score[0]) for score in scores]
