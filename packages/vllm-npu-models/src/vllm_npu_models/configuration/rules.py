"""From what was compiled and what the user wants to what vLLM's scheduler is set to."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_npu_models.configuration.limits import ANY_MODE as _ANY
from vllm_npu_models.configuration.limits import CompiledLimits
from vllm_npu_models.configuration.loader_config import OPTION, LoaderConfig
from vllm_npu_runtime.errors import ConfigurationError


@dataclass(frozen=True)
class Wanted:
    """What vLLM's configuration holds: the user's values, or vLLM's defaults, which are larger
    than any NPU's.

    Attributes:
        max_num_batched_tokens: tokens of a step.
        max_num_seqs: requests of a step.
        long_prefill_token_threshold: most tokens of one request in a step beside others; 0: none.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    long_prefill_token_threshold: int = 0


@dataclass(frozen=True)
class Schedule:
    """What the scheduler is set to.

    Attributes:
        slots: of the session, and the most requests at once.
        max_num_batched_tokens: tokens of a step.
        chunk: most tokens of one request in a step.
        core_mode: that the session runs in, or None.
        reasons: why each number is what it is, by its name.
    """

    slots: int
    max_num_batched_tokens: int
    chunk: int
    core_mode: str | None
    reasons: dict[str, str] = field(default_factory=dict)


def schedule(compiled: CompiledLimits, loader: LoaderConfig, wanted: Wanted) -> Schedule:
    """Work out the schedule.

    Args:
        compiled: what the model can do.
        loader: what the user wants of the session.
        wanted: what the user, or vLLM by default, wants of the scheduler.

    Raises:
        ConfigurationError: more than was compiled, or a core mode that wasn't.
    """
    problems: list[str] = []
    core_mode = loader.core_mode or compiled.core_mode
    modes = compiled.core_modes()
    free = not modes or _ANY in modes
    if loader.core_mode is not None and not free and loader.core_mode not in modes:
        problems.append(
            f"{OPTION}: {ConfigurationError.unknown('core_mode', loader.core_mode, modes)}"
        )
    boards = max(1, len(loader.dev_no))
    batch, chunk = compiled.batch(core_mode), compiled.chunk(core_mode)
    capacity = batch * boards
    said = "config.json says" if compiled.prefill_chunk_size is not None else "the default is"
    given = f"{said} {chunk}"
    if loader.max_batch_size is not None and loader.max_batch_size > capacity:
        problems.append(
            f"{OPTION}: 'max_batch_size' is {loader.max_batch_size}; the model was compiled for "
            f"{_capacity(batch, boards)}. Use {capacity} or less, or compile it with a larger "
            "`--max-batch-size`."
        )
    asked = loader.npu_prefill_chunk_size
    if asked is not None and compiled.prefill_chunk_size is not None and asked > chunk:
        problems.append(
            f"{OPTION}: 'npu_prefill_chunk_size' is {asked}; the model was compiled for {chunk}. "
            f"Use {chunk} or less."
        )
    if problems:
        raise ConfigurationError.several(problems)

    reasons: dict[str, str] = {}
    if asked is not None:
        chunk, given = asked, f"{OPTION} says {asked}"
    slots = min(wanted.max_num_seqs, loader.max_batch_size or capacity)
    if slots != wanted.max_num_seqs:
        reasons["max_num_seqs"] = (
            f"{OPTION} says {slots}"
            if loader.max_batch_size
            else f"the model was compiled for {_capacity(batch, boards)}"
        )
    # What the model was compiled for counts, not how many slots the user wants of it.
    if batch > 1 and compiled.batch_tokens is not None and compiled.batch_tokens < chunk:
        chunk = compiled.batch_tokens
        given = f"a model compiled for batches takes {chunk} tokens of a request in a step"
    if wanted.long_prefill_token_threshold:
        chunk = min(chunk, wanted.long_prefill_token_threshold)
    tokens = min(wanted.max_num_batched_tokens, chunk)
    if tokens < slots:
        # A step must have room for a token of every request.
        tokens, given = slots, f"{given}, and {slots} requests need a token each"
    if tokens != wanted.max_num_batched_tokens:
        reasons["max_num_batched_tokens"] = given
    return Schedule(slots, tokens, min(chunk, tokens), core_mode, reasons)


def _capacity(batch: int, boards: int) -> str:
    requests = "1 request" if batch == 1 else f"{batch} requests"
    return f"{requests} at once" + (f" on each of {boards} boards" if boards > 1 else "")
