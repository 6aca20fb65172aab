"""Pooling models behind `vllm serve`: embeddings, scores and classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from transformers import AutoTokenizer

from tests import oracle
from tests.prompts import SONNETS, mixed_prompts
from tests.server.conftest import COMMON
from tests.serving import Server, serve

pytestmark = [pytest.mark.slow, pytest.mark.serve]

NAME = "pooling"
LINES = [line for line in SONNETS.read_text().splitlines() if line][:6]
ARGUMENTS = (*COMMON, "--served-model-name", NAME)

Start = Callable[[str], Server]


def started(model: Path, logs: Path, *arguments: str | int) -> Iterator[Server]:
    """A server for a pooling model."""
    with serve(model, *ARGUMENTS, *arguments, log=logs / f"{model.name}.log") as server:
        yield server


class TestBertEmbeddings:
    """An encoder: one run per prompt, no KV cache."""

    @pytest.fixture(scope="class")
    def model(self, tiny_model: Callable[[str], Path]) -> Path:
        return tiny_model("bert")

    @pytest.fixture(scope="class")
    def server(self, model: Path, logs: Path) -> Iterator[Server]:
        yield from started(model, logs, "--runner", "pooling", "--max-model-len", 256)

    def test_embeddings_equal_hugging_face(self, server: Server, model: Path) -> None:
        ids = [AutoTokenizer.from_pretrained(model).encode(line) for line in LINES]
        answer = server.openai.embeddings.create(model=NAME, input=LINES)
        for given, line in zip(answer.data, ids, strict=True):
            expected = oracle.embed(model, line, "cls", normalize=True)
            np.testing.assert_allclose(given.embedding, expected.numpy(), atol=1e-4)

    def test_prompts_of_mixed_lengths_in_parallel(self, server: Server, model: Path) -> None:
        prompts = mixed_prompts(model, 12, longest=250)

        def ask(prompt: list[int]) -> list[float]:
            answer = server.openai.embeddings.create(model=NAME, input=prompt)
            return answer.data[0].embedding

        with ThreadPoolExecutor(len(prompts)) as pool:
            answers = list(pool.map(ask, prompts))
        for given, prompt in zip(answers, prompts, strict=True):
            expected = oracle.embed(model, prompt, "cls", normalize=True)
            np.testing.assert_allclose(given, expected.numpy(), atol=1e-4)

    def test_base64_is_what_floats_are(self, server: Server) -> None:
        floats = server.openai.embeddings.create(
            model=NAME, input=LINES[0], encoding_format="float"
        )
        packed = server.openai.embeddings.create(model=NAME, input=LINES[0])
        np.testing.assert_allclose(floats.data[0].embedding, packed.data[0].embedding, atol=1e-6)

    def test_a_prompt_over_the_limit_is_refused(self, server: Server, model: Path) -> None:
        prompt = mixed_prompts(model, 2, longest=300)[1]
        with pytest.raises(openai.BadRequestError, match="256"):
            server.openai.embeddings.create(model=NAME, input=prompt)
        assert server.openai.embeddings.create(model=NAME, input=LINES[0]).data

    def test_completions_are_refused(self, server: Server) -> None:
        with pytest.raises(openai.APIStatusError) as refused:
            server.openai.completions.create(model=NAME, prompt=LINES[0])
        assert refused.value.status_code in (400, 404)

    def test_metrics_count_the_runs(self, server: Server) -> None:
        metrics = server.metrics()
        assert metrics["vllm:npu_bucket_hits_total"] > 0
        assert metrics.get("vllm:npu_graphs_compiled_late_total", 0) == 0


class TestDecoderEmbeddings:
    """A decoder whose last token's hidden state is the embedding, with a KV cache."""

    @pytest.fixture(scope="class")
    def model(self, tiny_model: Callable[[str], Path]) -> Path:
        return tiny_model("qwen3-embedding")

    @pytest.fixture(scope="class")
    def server(self, model: Path, logs: Path) -> Iterator[Server]:
        yield from started(model, logs, "--runner", "pooling", "--max-model-len", 512)

    def test_embeddings_equal_hugging_face(self, server: Server, model: Path) -> None:
        """The longest prompt takes several steps."""
        prompts = mixed_prompts(model, 8, longest=500)
        answer = server.openai.embeddings.create(model=NAME, input=prompts)
        for given, prompt in zip(answer.data, prompts, strict=True):
            expected = oracle.embed(model, prompt, "last", normalize=True)
            np.testing.assert_allclose(given.embedding, expected.numpy(), atol=1e-4)


class TestCrossEncoder:
    """BERT with a head for pairs: `/score` and `/rerank`."""

    @pytest.fixture(scope="class")
    def model(self, tiny_model: Callable[[str], Path]) -> Path:
        return tiny_model("bert-cross")

    @pytest.fixture(scope="class")
    def server(self, model: Path, logs: Path) -> Iterator[Server]:
        yield from started(model, logs, "--max-model-len", 256)

    @pytest.fixture(scope="class")
    def expected(self, model: Path) -> list[float]:
        """What Hugging Face gives the first line with each of the others."""
        tokenizer = AutoTokenizer.from_pretrained(model)
        pairs = [tokenizer(LINES[0], line) for line in LINES[1:]]
        scores = [oracle.classify(model, each.input_ids, each.token_type_ids) for each in pairs]
        return [float(score[0]) for score in scores]

    def test_score_equals_hugging_face(self, server: Server, expected: list[float]) -> None:
        with server.http as http:
            asked = {"model": NAME, "text_1": LINES[0], "text_2": LINES[1:]}
            data = http.post("/score", json=asked).raise_for_status().json()["data"]
        assert [each["score"] for each in data] == pytest.approx(expected, abs=1e-4)

    def test_rerank_sorts_by_score(self, server: Server, expected: list[float]) -> None:
        with server.http as http:
            asked = {"model": NAME, "query": LINES[0], "documents": LINES[1:], "top_n": 3}
            results = http.post("/rerank", json=asked).raise_for_status().json()["results"]
        best = sorted(range(len(expected)), key=lambda place: -expected[place])[:3]
        assert [each["index"] for each in results] == best
        scores = [each["relevance_score"] for each in results]
        assert scores == pytest.approx([expected[place] for place in best], abs=1e-4)


class TestClassifier:
    """BERT with a head for classes: `/classify`."""

    @pytest.fixture(scope="class")
    def model(self, tiny_model: Callable[[str], Path]) -> Path:
        return tiny_model("bert-classifier")

    @pytest.fixture(scope="class")
    def server(self, model: Path, logs: Path) -> Iterator[Server]:
        yield from started(model, logs, "--max-model-len", 256)

    def test_probabilities_and_labels_equal_hugging_face(
        self, server: Server, model: Path
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        labels = json.loads((model / "config.json").read_text())["id2label"]
        with server.http as http:
            asked = {"model": NAME, "input": LINES}
            data = http.post("/classify", json=asked).raise_for_status().json()["data"]
        for given, line in zip(data, LINES, strict=True):
            expected = oracle.classify(model, tokenizer.encode(line))
            assert given["probs"] == pytest.approx(expected.tolist(), abs=1e-4)
            assert given["label"] == labels[str(int(expected.argmax()))]
