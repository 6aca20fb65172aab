"""Bad input gets one clear error: the value, what is allowed, and the fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.server import refusals
from tests.server.conftest import COMMON
from tests.server.refusals import Case
from tests.serving import VLLM, Server, free_port, run, run_forked

pytestmark = [pytest.mark.slow, pytest.mark.serve]

LIMITS = ("--max-model-len", "512", "--max-num-seqs", "8", "--max-num-batched-tokens", "256")


@dataclass(frozen=True, kw_only=True)
class Bad:
    """Something wrong, and words that the answer must have.

    Attributes:
        words: all of them, in any order.
        arguments: of `vllm serve`, where MODEL stands for the model's directory.
        npu: settings under `npu` in --additional-config.
        variables: environment variables.
        config: changes of the model's config.json.
        files: of the model, with other content.
        without: files that the model lacks.
        model: instead of a changed copy of the tiny Llama.
    """

    words: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    npu: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    model: str | None = None


def manual(*sizes: int) -> dict[str, Any]:
    """A list of token buckets."""
    return {"token_bucket": {"strategy": "manual", "manual_buckets": sizes}}


MOE = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
MULTIMODAL = {
    "architectures": ["PaliGemmaForConditionalGeneration"],
    "model_type": "paligemma",
    "text_config": {"model_type": "gemma"},
    "vision_config": {"model_type": "siglip_vision_model"},
}
ENCODER_DECODER = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "max_target_positions": 512,
}
QUANTIZED = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
MODEL = "{model}"
DRAFT = {"method": "eagle", "model": MODEL, "num_speculative_tokens": 2}
CONNECTOR = {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}

BAD = {
    "device": Bad(
        variables={"VLLM_NPU_DEVICE": "sim:smal"},
        words=("VLLM_NPU_DEVICE='sim:smal'", "Did you mean 'sim:small'?", "sim:large"),
    ),
    "driver": Bad(
        variables={"VLLM_NPU_DEVICE": "refrence"},
        words=("VLLM_NPU_DEVICE='refrence'", "Did you mean 'reference'?", "Known: ", "sim"),
    ),
    "setting": Bad(npu={"strickt": True}, words=("'strickt'", "Did you mean 'strict'?")),
    "setting of a bucket": Bad(
        npu={"token_bucket": {"stragety": "linear"}},
        words=("'token_bucket.stragety'", "Did you mean 'token_bucket.strategy'?"),
    ),
    "value of a setting": Bad(npu={"run_timeout": -1}, words=("run_timeout=-1", "above 0")),
    "settings that are no object": Bad(
        arguments=("--additional-config", '{"npu": true}'),
        words=("'npu' is True", "must be an object", '{"npu": {"strict": true}}'),
    ),
    "settings in the wrong place": Bad(
        arguments=("--additional-config", '{"strict": true}'),
        words=("'strict'", "belong under 'npu'", '{"npu": {"strict": true}}'),
    ),
    "section in capitals": Bad(
        arguments=("--additional-config", '{"NPU": {"strict": true}}'),
        words=("'NPU'", "belong under 'npu'"),
    ),
    "variable": Bad(
        variables={"VLLM_NPU_STRICKT": "1"},
        words=("'VLLM_NPU_STRICKT'", "Did you mean 'VLLM_NPU_STRICT'?"),
    ),
    "value of a variable": Bad(
        variables={"VLLM_NPU_STRICT": "perhaps"},
        words=("VLLM_NPU_STRICT='perhaps'", "true or false"),
    ),
    "no buckets": Bad(npu=manual(), words=("token_bucket.manual_buckets=[]", "needs a list")),
    "a negative bucket": Bad(npu=manual(-4, 256), words=("[-4, 256]", "above 0", "-4 can't")),
    "a bucket twice": Bad(npu=manual(8, 8, 256), words=("[8, 8, 256]", "unique", "8 is there")),
    "buckets too small": Bad(npu=manual(8, 128), words=("[8, 128]", "Make 256 the largest")),
    "buckets too large": Bad(npu=manual(8, 512), words=("[8, 512]", "Make 256 the largest")),
    "smallest bucket too large": Bad(
        npu={"token_bucket": {"min": 1000}}, words=("token_bucket.min 1000", "Use 256 or less")
    ),
    "buckets in variables": Bad(
        variables={
            "VLLM_NPU_TOKEN_BUCKET_STRATEGY": "manual",
            "VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS": "0,x,256",
        },
        words=("VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS='0,x,256'", "'0', 'x' can't", "above 0"),
    ),
    "decode buckets too small": Bad(
        npu={
            "kv_contract": "gather",
            "decode_batch_bucket": {"strategy": "manual", "manual_buckets": [1, 4]},
        },
        words=("decode_batch_bucket.manual_buckets [1, 4]", "Make 8 the largest"),
    ),
    "KV contract": Bad(
        npu={"kv_contract": "pagd"}, words=("kv_contract 'pagd'", "Did you mean 'paged'?")
    ),
    "KV contract that the device lacks": Bad(
        npu={"kv_contract": "paged"},
        variables={"VLLM_NPU_DEVICE": "sim:small"},
        words=("kv_contract 'paged'", "sim:small serves gather"),
    ),
    "dtype": Bad(arguments=("--dtype", "float64"), words=("--dtype", "'float64'", "'bfloat16'")),
    "KV dtype": Bad(
        arguments=("--kv-cache-dtype", "fp8"),
        words=("--kv-cache-dtype fp8", "float32, bfloat16, float16"),
    ),
    "KV dtype of another scheme": Bad(
        arguments=("--kv-cache-dtype", "int8_per_token_head"),
        words=("--kv-cache-dtype int8_per_token_head", "float32, bfloat16, float16"),
    ),
    "architecture": Bad(
        config={"architectures": ["NoSuchForCausalLM"]},
        words=("NoSuchForCausalLM", "not supported", "'LlamaForCausalLM'"),
    ),
    "mixture of experts": Bad(
        config=MOE, words=("MixtralForCausalLM", "mixture-of-experts", "Use a dense model")
    ),
    "multimodal model": Bad(
        config=MULTIMODAL, words=("PaliGemmaForConditionalGeneration", "multimodal", "text-only")
    ),
    "encoder-decoder model": Bad(
        config=ENCODER_DECODER,
        arguments=("--max-num-batched-tokens", "2048"),
        words=("WhisperForConditionalGeneration", "not supported"),
    ),
    "state-space model": Bad(
        config={"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
        words=("MambaForCausalLM", "state-space"),
    ),
    "quantized checkpoint": Bad(
        config={"quantization_config": QUANTIZED},
        arguments=("--dtype", "float16"),
        words=("GPTQ checkpoint", "holds no tensor", "qweight", "says that it is quantized"),
    ),
    "quantized checkpoint, several entries": Bad(
        config={"quantization_config": QUANTIZED | {"bits": 3, "sym": False, "group_size": 16}},
        words=("GPTQ checkpoint", "3 bits", '"sym": false', "group size 16", "3 settings"),
    ),
    "experts' own format": Bad(
        config={"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}},
        arguments=("--dtype", "bfloat16"),
        words=("--quantization fp8", "unquantized checkpoint"),
    ),
    "quantization on the fly": Bad(
        arguments=("--quantization", "fp8", "--dtype", "bfloat16"),
        words=("--quantization fp8", "unquantized checkpoint"),
    ),
    "no such model": Bad(model="/no/such/model", words=("/no/such/model",)),
    "no config.json": Bad(
        without=("config.json",), words=("ensure the presence of a 'config.json'",)
    ),
    "a part of the weights": Bad(
        files={"model.safetensors.index.json": '{"weight_map": {"a": "part-1.safetensors"}}'},
        words=("part-1.safetensors' is missing", "Fetch it again"),
    ),
    "damaged index of the weights": Bad(
        files={"model.safetensors.index.json": '{"weight_'},
        words=("model.safetensors.index.json' is damaged", "Fetch it again"),
    ),
    "no tokenizer": Bad(
        without=("tokenizer.json", "tokenizer_config.json"),
        words=("holds no tokenizer", "tokenizer.json", "--tokenizer"),
    ),
    "longer than the model": Bad(
        arguments=("--max-model-len", "4096"), words=("max_model_len (4096)", "1024")
    ),
    "LoRA": Bad(arguments=("--enable-lora",), words=("--enable-lora", "Merge the adapter")),
    "tensor parallelism": Bad(
        arguments=("--tensor-parallel-size", "2"), words=("--tensor-parallel-size 2", "Use 1")
    ),
    "pipeline parallelism": Bad(
        arguments=("--pipeline-parallel-size", "2"), words=("--pipeline-parallel-size 2", "Use 1")
    ),
    "data parallelism": Bad(
        arguments=("--data-parallel-size", "2"), words=("--data-parallel-size 2", "Use 1")
    ),
    "expert parallelism": Bad(
        arguments=("--enable-expert-parallel",), words=("expert parallelism",)
    ),
    "micro-batches": Bad(arguments=("--enable-dbo",), words=("--enable-dbo", "Leave it out")),
    "sleep mode": Bad(arguments=("--enable-sleep-mode",), words=("Sleep mode is not supported",)),
    "KV connector": Bad(
        arguments=("--kv-transfer-config", json.dumps(CONNECTOR)),
        words=("--kv-transfer-config", "'ExampleConnector'", "Use NPUConnector"),
    ),
    "KV offloading": Bad(
        arguments=("--kv-offloading-size", "1"), words=("--kv-offloading-size 1", "Leave it out")
    ),
    "weight offloading": Bad(
        arguments=("--cpu-offload-gb", "1"), words=("--cpu-offload-gb 1", "Use 0")
    ),
    "speculation method": Bad(
        arguments=("--speculative-config", json.dumps(DRAFT)),
        words=("method 'eagle'", "ngram, draft_model"),
    ),
    "attention backend": Bad(
        arguments=("--attention-backend", "FLASH_ATTN"),
        words=("--attention-backend FLASH_ATTN", "Leave it out"),
    ),
    "compilation by vLLM": Bad(
        arguments=("--compilation-config", '{"mode": 3}'),
        words=("mode VLLM_COMPILE", "Leave the mode out"),
    ),
    "CUDA graphs": Bad(
        arguments=("--compilation-config", '{"cudagraph_mode": "FULL"}'),
        words=("cudagraph_mode FULL", "Leave it out"),
    ),
    "no graphs on a device that needs them": Bad(
        arguments=("--enforce-eager",),
        variables={"VLLM_NPU_DEVICE": "sim:large"},
        words=("--enforce-eager", "sim:large", "Leave it out"),
    ),
    "several at once": Bad(
        arguments=("--tensor-parallel-size", "2", "--enable-lora", "--kv-cache-dtype", "fp8"),
        words=(
            "3 settings can't be honoured",
            "1. --tensor-parallel-size 2",
            "2. --enable-lora",
            "3. --kv-cache-dtype fp8",
        ),
    ),
}
GOOD = {
    "plain": Bad(words=()),
    "buckets split between configuration and variables": Bad(
        npu={"token_bucket": {"strategy": "manual"}},
        variables={"VLLM_NPU_TOKEN_BUCKET_MANUAL_BUCKETS": "8,256"},
        words=(),
    ),
    "no graphs on a device that needs none": Bad(arguments=("--enforce-eager",), words=()),
}


class TestConfiguration:
    """Refused before anything is started."""

    @pytest.mark.parametrize("name", BAD)
    def test_is_refused(self, name: str, answers: dict[str, str]) -> None:
        assert answers[name], "it was accepted"
        missing = [word for word in BAD[name].words if word not in answers[name]]
        assert not missing, answers[name]

    @pytest.mark.parametrize("name", GOOD)
    def test_is_accepted(self, name: str, answers: dict[str, str]) -> None:
        assert answers[name] == ""


class TestServer:
    """The whole way: `vllm serve` ends with the error, and with an exit code."""

    def test_unknown_device(self, llama: Path) -> None:
        done = run(command(llama), env={"VLLM_NPU_DEVICE": "opnvino:CPU"})
        assert done.returncode != 0
        assert "VLLM_NPU_DEVICE='opnvino:CPU': Unknown driver" in done.last_lines(1)

    def test_damaged_checkpoint(self, changed: Callable[..., Path], forks: None) -> None:
        model = changed()
        weights = model / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100_000])
        done = run_forked(command(model))
        assert done.returncode != 0
        assert f"Checkpoint file '{weights}' is damaged" in done.last_lines(5)

    def test_missing_checkpoint(self, changed: Callable[..., Path], forks: None) -> None:
        model = changed(without=("model.safetensors",))
        done = run_forked(command(model))
        assert done.returncode != 0
        assert f"Cannot find any model weights with `{model}`" in done.output
        assert "See root cause above" in done.last_lines(3)

    def test_too_little_memory_for_one_request(self, llama: Path, forks: None) -> None:
        done = run_forked(command(llama, "--kv-cache-memory-bytes", 64 << 10))
        assert done.returncode != 0
        assert "To serve at least one request with the model's max seq len (512)" in done.output
        assert "the estimated maximum model length is" in done.output
        assert "or decreasing `max_model_len`" in done.output
        assert "See root cause above" in done.last_lines(3)

    def test_port_in_use(self, llama: Path, demo: Server, forks: None) -> None:
        done = run_forked(command(llama, port=demo.port))
        assert done.returncode != 0
        assert "Address already in use" in done.last_lines(5)
        assert demo.openai.models.list().data, "the other server goes on"


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Path]) -> Path:
    """A model that is served if all else is right."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def changed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Copies of the model with changes of its config.json, or of its files."""

    def make(
        config: dict[str, Any] | None = None,
        files: dict[str, str] | None = None,
        without: tuple[str, ...] = (),
    ) -> Path:
        directory = tmp_path_factory.mktemp("model")
        shutil.copytree(llama, directory, dirs_exist_ok=True)
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
        for name, content in (files or {}).items():
            (directory / name).write_text(content)
        for name in without:
            (directory / name).unlink()
        return directory

    return make


@pytest.fixture(scope="module")
def answers(changed: Callable[..., Path], llama: Path, forks: None) -> dict[str, str]:
    """What each configuration was answered; "" if it was accepted."""
    cases = {}
    for name, bad in (BAD | GOOD).items():
        copied = bad.config or bad.files or bad.without
        model = bad.model or (changed(bad.config, bad.files, bad.without) if copied else llama)
        npu = ("--additional-config", json.dumps({"npu": bad.npu})) if bad.npu else ()
        dtype = () if "--dtype" in bad.arguments else ("--dtype", "float32")
        given = [each.replace(MODEL, str(model)) for each in bad.arguments]
        cases[name] = Case([str(model), *LIMITS, *dtype, *npu, *given], bad.variables)
    return refusals.answers(cases)


def command(model: Path, *arguments: str | int, port: int | None = None) -> list[str | int | Path]:
    """A server that isn't expected to start."""
    options = (*COMMON, "--max-model-len", 512, "--host", "127.0.0.1", "--port")
    return [VLLM, "serve", model, *options, port or free_port(), *arguments]
