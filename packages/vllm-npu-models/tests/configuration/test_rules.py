"""What the scheduler is set to, from what was compiled and what the user asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_npu_models.configuration.limits import CompiledLimits
from vllm_npu_models.configuration.loader_config import LoaderConfig
from vllm_npu_models.configuration.rules import Schedule, Wanted, schedule
from vllm_npu_runtime.errors import ConfigurationError

BY_CORE_MODE = {"single": 64, "global4": 256, "global8": 512}
# vLLM's own defaults, for a server.
DEFAULTS = Wanted(max_num_batched_tokens=2048, max_num_seqs=256)


def planned(
    config: dict[str, Any], loader: dict[str, Any] | None = None, wanted: Wanted = DEFAULTS
) -> Schedule:
    compiled = CompiledLimits.of(SimpleNamespace(**config))
    return schedule(compiled, LoaderConfig.of(loader or {}), wanted)


class TestPrefillChunk:
    def test_a_number_is_used_directly(self) -> None:
        assert planned({"npu_prefill_chunk_size": 96}).max_num_batched_tokens == 96

    @pytest.mark.parametrize(("mode", "tokens"), BY_CORE_MODE.items())
    def test_a_mapping_is_read_by_the_users_core_mode(self, mode: str, tokens: int) -> None:
        done = planned({"npu_prefill_chunk_size": BY_CORE_MODE}, {"core_mode": mode})
        assert (done.max_num_batched_tokens, done.core_mode) == (tokens, mode)

    def test_the_models_core_mode_counts_where_the_user_names_none(self) -> None:
        config = {"npu_prefill_chunk_size": BY_CORE_MODE, "core_mode": "global8"}
        assert planned(config).max_num_batched_tokens == 512
        assert planned(config, {"core_mode": "single"}).max_num_batched_tokens == 64

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"npu_prefill_chunk_size": BY_CORE_MODE},
            {"npu_prefill_chunk_size": BY_CORE_MODE, "core_mode": "auto"},
        ],
        ids=["nothing said", "no core mode", "a core mode without a number"],
    )
    def test_without_a_match_it_is_128(self, config: dict[str, Any]) -> None:
        assert planned(config).max_num_batched_tokens == 128

    def test_a_mapping_may_name_its_own_default(self) -> None:
        config = {"npu_prefill_chunk_size": {"default": 32, "single": 64}}
        assert planned(config).max_num_batched_tokens == 32
        assert planned(config, {"core_mode": "multi"}).max_num_batched_tokens == 32

    @pytest.mark.parametrize(("asked", "tokens"), [(100, 100), (256, 256), (4096, 256)])
    def test_the_smaller_of_it_and_the_users_value_wins(self, asked: int, tokens: int) -> None:
        config = {"npu_prefill_chunk_size": BY_CORE_MODE}
        done = planned(config, {"core_mode": "global4"}, Wanted(asked, 1))
        assert done.max_num_batched_tokens == tokens

    def test_the_loader_config_may_ask_for_less(self) -> None:
        done = planned({"npu_prefill_chunk_size": 256}, {"npu_prefill_chunk_size": 48})
        assert done.max_num_batched_tokens == 48

    def test_the_loader_config_may_not_ask_for_more(self) -> None:
        with pytest.raises(ConfigurationError, match=r"is 512; the model was compiled for 256"):
            planned({"npu_prefill_chunk_size": 256}, {"npu_prefill_chunk_size": 512})


class TestBatches:
    def test_the_models_capacity_is_the_number_of_slots(self) -> None:
        assert planned({"max_batch_size": 32}).slots == 32

    def test_without_a_capacity_there_is_one_slot(self) -> None:
        assert planned({}).slots == 1

    def test_the_user_may_ask_for_fewer_requests(self) -> None:
        assert planned({"max_batch_size": 32}, wanted=Wanted(2048, 5)).slots == 5

    def test_the_users_larger_number_is_cut_to_the_capacity(self) -> None:
        assert planned({"max_batch_size": 4}, wanted=Wanted(2048, 64)).slots == 4

    def test_a_capacity_may_depend_on_the_core_mode(self) -> None:
        config = {"max_batch_size": {"single": 16, "global4": 4}}
        assert planned(config, {"core_mode": "single"}).slots == 16
        assert planned(config, {"core_mode": "global4"}).slots == 4
        assert planned(config).slots == 1

    def test_the_loader_config_overrides_the_capacity_downwards(self) -> None:
        assert planned({"max_batch_size": 32}, {"max_batch_size": 8}).slots == 8

    def test_the_loader_config_may_not_exceed_what_was_compiled(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'max_batch_size' is 64; .* compiled for 32"):
            planned({"max_batch_size": 32}, {"max_batch_size": 64})

    def test_each_board_has_as_many_slots_as_the_model_was_compiled_for(self) -> None:
        assert planned({"max_batch_size": 4}, {"dev_no": [0, 1, 2]}).slots == 12
        assert planned({}, {"dev_no": [0, 1]}).slots == 2
        with pytest.raises(ConfigurationError, match=r"for 4 requests at once on each of 2 boards"):
            planned({"max_batch_size": 4}, {"dev_no": [0, 1], "max_batch_size": 9})

    @pytest.mark.parametrize("capacity", [2, 32])
    def test_mobilints_batch_models_take_128_tokens_of_a_request(self, capacity: int) -> None:
        config = {
            "architectures": ["MobilintLlamaForCausalLM"],
            "npu_prefill_chunk_size": 512,
            "max_batch_size": capacity,
        }
        done = planned(config)
        assert (done.max_num_batched_tokens, done.chunk) == (128, 128)

    def test_mobilints_single_models_take_their_own_chunk(self) -> None:
        config = {"architectures": ["MobilintLlamaForCausalLM"], "npu_prefill_chunk_size": 512}
        assert planned(config).max_num_batched_tokens == 512

    def test_fewer_slots_of_a_batch_model_are_clamped_the_same(self) -> None:
        config = {
            "architectures": ["MobilintLlamaForCausalLM"],
            "npu_prefill_chunk_size": 512,
            "max_batch_size": 32,
        }
        assert planned(config, {"max_batch_size": 1}).max_num_batched_tokens == 128

    def test_our_batch_models_take_their_own_chunk_unless_they_say_less(self) -> None:
        config = {"npu_prefill_chunk_size": 512, "max_batch_size": 8}
        assert planned(config).max_num_batched_tokens == 512
        assert planned({**config, "npu_batch_tokens": 200}).max_num_batched_tokens == 200

    def test_a_step_has_room_for_a_token_of_every_request(self) -> None:
        done = planned({"npu_prefill_chunk_size": 16, "max_batch_size": 24})
        assert (done.max_num_batched_tokens, done.chunk) == (24, 16)


class TestCoreModes:
    def test_one_that_no_mapping_names_is_refused_with_the_nearest(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'globla4'.*Did you mean 'global4'"):
            planned({"npu_prefill_chunk_size": BY_CORE_MODE}, {"core_mode": "globla4"})

    def test_any_goes_where_there_is_no_mapping(self) -> None:
        assert planned({"npu_prefill_chunk_size": 64}, {"core_mode": "multi"}).core_mode == "multi"


class TestReasons:
    def test_every_change_has_one(self) -> None:
        done = planned({"npu_prefill_chunk_size": 64, "max_batch_size": 4})
        assert done.reasons == {
            "max_num_seqs": "the model was compiled for 4 requests at once",
            "max_num_batched_tokens": "config.json says 64",
        }

    def test_what_stays_has_none(self) -> None:
        assert planned({"npu_prefill_chunk_size": 64}, wanted=Wanted(32, 1)).reasons == {}

    def test_all_problems_are_told_at_once(self) -> None:
        with pytest.raises(ConfigurationError, match=r"(?s)1\..*core_mode.*2\..*max_batch_size"):
            planned(
                {"npu_prefill_chunk_size": BY_CORE_MODE},
                {"core_mode": "double", "max_batch_size": 2},
            )


@pytest.mark.parametrize("value", [0, -1, 1.5, "64", True, {"single": 0}, {}])
def test_a_damaged_config_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="'npu_prefill_chunk_size' is "):
        planned({"npu_prefill_chunk_size": value})
