"""What is particular to a server of an artifact: log, metrics, refusals, failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.asking import passage
from tests.server import refusals
from tests.server.refusals import Case
from tests.serving import VLLM, VLLM_NPU, Server, free_port, run, run_forked, serve

pytestmark = [pytest.mark.slow, pytest.mark.serve]

MODEL = "demo"
DEVICE = "openvino:CPU"


@pytest.fixture(scope="module")
def path(tiny_model: Callable[[str], Path]) -> Path:
    """The checkpoint."""
    return tiny_model("llama")


def complete(client: openai.OpenAI, prompt: Any, new: int = 8) -> Any:
    return client.completions.create(
        model=MODEL,
        prompt=prompt,
        max_tokens=new,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )


class TestLog:
    def test_every_change_of_the_scheduler_is_a_line(self, compiled_demo: Server) -> None:
        log = compiled_demo.log.read_text()
        assert "max_num_seqs: from 256 to 8, as the model was compiled for 8 requests" in log
        assert "max_num_batched_tokens: from 2048 to 128, as config.json says 128." in log
        assert "max_model_len: from 1024 to 512, as the model was compiled for it." in log

    def test_one_line_says_where_it_runs(self, compiled_demo: Server) -> None:
        lines = compiled_demo.log.read_text().splitlines()
        (line,) = [line for line in lines if "NPU platform: " in line]
        assert "openvino:CPU" in line
        assert "KV in" in line


class TestPrefixes:
    def test_a_conversation_goes_on_from_its_last_turn(
        self, compiled_demo: Server, path: Path
    ) -> None:
        """The second request begins with the first's prompt and answer."""
        client = compiled_demo.openai
        before = compiled_demo.metrics()
        prompt = passage(path, 200, 300)
        first = complete(client, prompt)
        turn = [*prompt, *first.choices[0].token_ids, *passage(path, 20, 40)]
        second = complete(client, turn)
        after = compiled_demo.metrics()

        def grown(name: str) -> float:
            return after.get(name, 0.0) - before.get(name, 0.0)

        assert grown("vllm_npu:snapshot_hits_total") == 1
        # The last token of the first answer was never read.
        assert grown("vllm_npu:snapshot_hit_tokens_total") == len(prompt) + 7
        assert second.usage.prompt_tokens == len(turn)

    def test_another_salt_finds_nothing(self, compiled_demo: Server, path: Path) -> None:
        prompt = passage(path, 150, 900)
        hits = "vllm_npu:snapshot_hits_total"
        counts = []
        for salt in ("one", "two", "two"):
            compiled_demo.openai.completions.create(
                model=MODEL, prompt=prompt, max_tokens=2, extra_body={"cache_salt": salt}
            )
            counts.append(compiled_demo.metrics().get(hits, 0.0))
        assert counts[1] == counts[0]
        assert counts[2] == counts[1] + 1


@dataclass(frozen=True, kw_only=True)
class Bad:
    """Something wrong, and words that the answer must have."""

    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


BAD = {
    "an unknown key": Bad(
        extra={"core_mod": "single"},
        words=("--model-loader-extra-config", "Unknown key 'core_mod'", "'core_mode'"),
    ),
    "a batch size above the compiled": Bad(
        extra={"max_batch_size": 9}, words=("'max_batch_size' is 9", "compiled for 8")
    ),
    "a chunk above the compiled": Bad(
        extra={"npu_prefill_chunk_size": 256},
        words=("'npu_prefill_chunk_size' is 256", "compiled for 128"),
    ),
    "a core mode that isn't in the mapping": Bad(
        config={"npu_prefill_chunk_size": {"single": 64, "global4": 256}},
        extra={"core_mode": "global8"},
        words=("Unknown core_mode 'global8'", "global4, single"),
    ),
    "a length above the compiled": Bad(
        arguments=("--max-model-len", "1024"),
        words=("--max-model-len 1024", "compiled for 512 tokens", "vllm-npu compile"),
    ),
    "another dtype": Bad(
        arguments=("--dtype", "float16"),
        words=("--dtype float16", "compiled for float32", "--dtype float16`"),
    ),
    "a damaged config": Bad(
        config={"max_batch_size": "8"}, words=("config.json", "'max_batch_size' is '8'")
    ),
    "tensor parallelism": Bad(
        arguments=("--tensor-parallel-size", "2"),
        words=("--tensor-parallel-size 2", "Use 1", "dev_no"),
    ),
    "LoRA": Bad(arguments=("--enable-lora",), words=("--enable-lora", "Merge the adapter")),
    "a draft model": Bad(
        arguments=(
            "--speculative-config",
            '{"method": "draft_model", "model": "{model}", "num_speculative_tokens": 2}',
        ),
        words=("method 'draft_model'", "only ngram"),
    ),
    "another KV connector": Bad(
        arguments=(
            "--kv-transfer-config",
            '{"kv_connector": "ExampleConnector", "kv_role": "kv_both"}',
        ),
        words=("connector 'ExampleConnector'", "Leave it out"),
    ),
    "a load format": Bad(
        arguments=("--load-format", "dummy"), words=("--load-format dummy", "Leave it out")
    ),
    "an architecture without a wrapper": Bad(
        config={"architectures": ["NPUGemmaForCausalLM"]}, words=("NPUGemmaForCausalLM",)
    ),
    "another scheduler": Bad(
        arguments=("--scheduler-cls", "tests.schedulers.CountingScheduler"),
        words=("--scheduler-cls tests.schedulers.CountingScheduler", "Leave it out"),
    ),
    "several at once": Bad(
        arguments=("--enable-lora", "--load-format", "dummy"),
        words=("2 settings", "1. --load-format dummy", "2. --enable-lora"),
    ),
}


@pytest.fixture(scope="module")
def changed(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Copies of the artifact with changes of its config.json."""

    def make(config: dict[str, Any]) -> Path:
        directory = tmp_path_factory.mktemp("artifact")
        shutil.copytree(artifact, directory, dirs_exist_ok=True)
        file = directory / "config.json"
        if not config:
            return directory
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return directory

    return make


@pytest.fixture(scope="module")
def answers(artifact: Path, changed: Callable[..., Path], forks: None) -> dict[str, str]:
    """What each configuration was answered."""
    cases = {}
    for name, bad in {**BAD, "good": Bad(words=())}.items():
        model = changed(bad.config) if bad.config else artifact
        extra = ("--model-loader-extra-config", json.dumps(bad.extra)) if bad.extra else ()
        given = [each.replace("{model}", str(model)) for each in bad.arguments]
        cases[name] = Case([str(model), *extra, *given], {"VLLM_NPU_DEVICE": DEVICE})
    return refusals.answers(cases)


class TestRefusals:
    @pytest.mark.parametrize("name", BAD)
    def test_before_anything_is_started(self, name: str, answers: dict[str, str]) -> None:
        assert answers[name], "it was accepted"
        missing = [word for word in BAD[name].words if word not in answers[name]]
        assert not missing, answers[name]

    def test_nothing_where_all_is_well(self, answers: dict[str, str]) -> None:
        assert answers["good"] == ""

    def test_an_altered_file(self, changed: Callable[..., Path], forks: None) -> None:
        directory = changed({})
        weights = directory / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1000] ^= 1
        weights.write_bytes(content)
        done = vllm_serve(directory)
        assert done.returncode != 0
        assert "'model.safetensors' was altered: its SHA-256 is" in done.output

    def test_an_artifact_for_another_device(
        self, changed: Callable[..., Path], forks: None
    ) -> None:
        directory = changed({})
        manifest = directory / "npu_artifact.json"
        manifest.write_text(manifest.read_text().replace("openvino:CPU", "openvino:NPU"))
        done = vllm_serve(directory)
        assert done.returncode != 0
        assert "compiled for openvino:NPU, and openvino:CPU was asked for" in done.output

    def test_without_the_plugin_the_architecture_is_unknown(self, artifact: Path) -> None:
        env = {"VLLM_PLUGINS": "npu,npu_stats", "VLLM_NPU_DEVICE": DEVICE}
        done = run([VLLM, "serve", artifact, "--port", free_port()], env=env)
        assert done.returncode != 0
        assert "NPULlamaForCausalLM" in done.output
        assert "are not supported for now" in done.output

    def test_cache_warming_says_that_there_is_nothing_to_warm(
        self, artifact: Path, forks: None
    ) -> None:
        done = run_forked([VLLM_NPU, "cache", "warm", artifact], env={"VLLM_NPU_DEVICE": DEVICE})
        assert done.returncode != 0
        assert "compiled ahead of time" in done.output


class TestFailures:
    """On a simulated device that fails on demand."""

    def test_a_failing_request_leaves_the_others_running(
        self, artifact: Path, path: Path, logs: Path, forks: None
    ) -> None:
        options = json.dumps({"fail": "out_of_memory@row:9"})
        env = {"VLLM_NPU_DEVICE": "sim:large", "VLLM_NPU_DRIVER_OPTIONS": options}
        arguments = ("--served-model-name", MODEL)
        log = logs / "failing.log"
        with serve(artifact, *arguments, env=env, log=log, forked=True) as server:
            client = server.openai
            prompts = [passage(path, 30, 50 * index) for index in range(4)]

            def ask(prompt: list[int]) -> list[int] | None:
                try:
                    return list(complete(client, prompt, 16).choices[0].token_ids)
                except openai.InternalServerError:
                    return None

            with ThreadPoolExecutor(4) as threads:
                given = list(threads.map(ask, prompts))
            assert given.count(None) == 1, given
            again = [ask(prompt) for prompt in prompts]
        assert None not in again
        assert all(one in (None, two) for one, two in zip(given, again, strict=True))
        assert "fails: " in server.log.read_text()


def vllm_serve(model: Path) -> Any:
    """Run a server that isn't expected to start."""
    options = ("--host", "127.0.0.1", "--port", free_port())
    return run_forked([VLLM, "serve", model, *options], env={"VLLM_NPU_DEVICE": DEVICE})
