"""A model as Mobilint releases them, served by vLLM with a stand-in for the vendor's runtime.

The stand-in, and what it must answer, are those of the driver's own tests, where they are checked
against the vendor's library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Engines

ROOT = Path(__file__).parents[2]
FAKES = ROOT / "packages" / "vllm-npu-runtime" / "tests" / "mobilint"
PACKAGE = "mobilint_of_the_drivers_tests"
STAND_IN = f"""
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("stand_in", {str(FAKES / "fake.py")!r})
module = module_from_spec(spec)
spec.loader.exec_module(module)
globals().update(vars(module.Host().module()))
"""
CONFIG = {
    "model_type": "mobilint-llama",
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
    "npu_prefill_chunk_size": {"single": 8, "global4": 16},
    "dtype": "float32",
    "auto_map": {"AutoConfig": "configuration_mobilint.MobilintConfig"},
}


def of_the_driver(name: str) -> Any:
    """A module of the driver's tests."""
    if PACKAGE not in sys.modules:
        spec = spec_from_file_location(
            PACKAGE, FAKES / "__init__.py", submodule_search_locations=[str(FAKES)]
        )
        assert spec is not None
        sys.modules[PACKAGE] = module_from_spec(spec)
    return import_module(f"{PACKAGE}.{name}")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The vendor's package, as far as the driver sees: here, and in processes forked from here."""
    site = tmp_path_factory.mktemp("site")
    (site / "qbruntime.py").write_text(STAND_IN)
    metadata = site / "mobilint_qb_runtime-1.5.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Name: mobilint-qb-runtime\nVersion: 1.5.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        # The real one may be installed, and another test may have looked for its boards.
        patch.delitem(sys.modules, "qbruntime", raising=False)
        yield
        sys.modules.pop("qbruntime", None)


@pytest.fixture(scope="module")
def serve(installed: None, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A release and an engine for it."""

    def start(compiled: dict[str, Any], config: dict[str, Any], **options: Any) -> Any:
        directory = tmp_path_factory.mktemp("mobilint") / "model"
        model = of_the_driver("released").Released(directory, {**CONFIG, **config}, **compiled)
        return model, engines.of(directory, "mobilint", skip_tokenizer_init=True, **options)

    return start


def greedy(model: Any, prompt: list[int], new: int) -> list[int]:
    """What the stand-in's arithmetic gives, token by token."""
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(int(model.logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def ask(llm: Any, prompts: list[list[int]], new: int, **fields: Any) -> list[list[int]]:
    from vllm import SamplingParams

    params = SamplingParams(
        temperature=0, max_tokens=new, ignore_eos=True, detokenize=False, **fields
    )
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    return [
        list(each.outputs[0].token_ids) for each in llm.generate(inputs, params, use_tqdm=False)
    ]


def prompts(count: int) -> list[list[int]]:
    make = of_the_driver("released").prompt
    return [make(3 + 5 * index, index) for index in range(count)]


def test_a_model_for_one_request(serve: Any) -> None:
    """Its chunk is that of its core mode, and requests wait for one another."""
    model, llm = serve({}, {})
    scheduler = llm.llm_engine.vllm_config.scheduler_config
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (1, 8)
    asked = prompts(6)
    assert ask(llm, asked, 10) == [greedy(model, prompt, 10) for prompt in asked]


def test_a_model_for_batches(serve: Any) -> None:
    compiled = {"batches": 4}
    model, llm = serve(compiled, {"max_batch_size": 4, "npu_prefill_chunk_size": 512})
    scheduler = llm.llm_engine.vllm_config.scheduler_config
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (4, 128)
    asked = prompts(9)
    assert ask(llm, asked, 10) == [greedy(model, prompt, 10) for prompt in asked]


def test_prefixes_are_reused_through_copies_of_its_caches(serve: Any) -> None:
    options = {"model_loader_extra_config": {"prefix_cache_min_hit_tokens": 4}, "block_size": 4}
    model, llm = serve({"batches": 2}, {"max_batch_size": 2}, **options)
    shared = of_the_driver("released").prompt(24, 5)
    asked = [[*shared, *of_the_driver("released").prompt(6, index)] for index in range(5)]
    given = [ask(llm, [prompt], 6)[0] for prompt in asked]
    assert given == [greedy(model, prompt, 6) for prompt in asked]


def test_prompt_logprobs_are_refused(serve: Any) -> None:
    """The model gives logits of a step's last token only."""
    _, llm = serve({}, {})
    with pytest.raises(Exception, match="every_token"):
        ask(llm, prompts(1), 1, prompt_logprobs=0)


def test_the_core_mode_is_the_users(serve: Any) -> None:
    extra = {"core_mode": "global4", "target_clusters": [1], "target_cores": []}
    model, llm = serve({}, {"target_cores": None}, model_loader_extra_config=extra)
    assert llm.llm_engine.vllm_config.scheduler_config.max_num_batched_tokens == 16
    (asked,) = prompts(1)
    assert ask(llm, [asked], 4) == [greedy(model, asked, 4)]
