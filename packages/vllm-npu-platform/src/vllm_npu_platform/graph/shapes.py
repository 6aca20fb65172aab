"""Every graph that a configuration needs, known before anything is traced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_npu_platform.graph.buckets import bucket_sizes
from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.settings import BucketSettings

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.target import Target

DEFAULT_PREFILL_CHUNK = 128


@dataclass(frozen=True, order=True)
class Shape:
    """The static shape of one graph.

    Attributes:
        contract: see `KVContract`.
        tokens: rows of the hidden states.
        requests: rows of the block table. With the gather contract each request has
            `tokens / requests` tokens.
        dynamic: `tokens` and `requests` are the most that it takes; it runs any fewer, unpadded.
    """

    contract: KVContract
    tokens: int
    requests: int
    dynamic: bool = False

    def __str__(self) -> str:
        if self.dynamic:
            return f"tokens=1-{self.tokens}"
        if self.contract is KVContract.PAGED:
            return f"tokens={self.tokens}"
        return f"decode={self.requests}" if self.tokens == self.requests else f"chunk={self.tokens}"


@dataclass(frozen=True)
class Shapes:
    """All shapes of one model under one contract.

    Attributes:
        paged: token buckets, ascending, by their number of tokens.
        decode: decode buckets, by their number of requests.
        chunk: prefill-chunk buckets, by their number of tokens.
    """

    paged: dict[int, Shape]
    decode: dict[int, Shape]
    chunk: dict[int, Shape]

    def __iter__(self) -> Iterator[Shape]:
        """Largest first, so that a device that is too small says so at once."""
        every = [*self.paged.values(), *self.chunk.values(), *self.decode.values()]
        # A chunk of one token and a decode of one request are the same graph.
        yield from sorted(dict.fromkeys(every), reverse=True)

    def __bool__(self) -> bool:
        return bool(self.paged or self.decode or self.chunk)


def contract_of(target: Target, config: VllmConfig) -> KVContract:
    """The contract in use: the setting's, or the best that the device has for the model.

    Raises:
        ConfigurationError: the device doesn't serve the contract that was asked for, or not for
            this model.
    """
    capabilities = target.device.capabilities
    offered = capabilities.kv_contracts
    wanted = target.settings.kv_contract
    capped = not capabilities.soft_cap and _soft_cap(config)
    if wanted == "auto":
        if capped:
            offered = tuple(each for each in offered if each is not KVContract.PAGED) or offered
        return offered[0]
    if wanted == "paged" and capped:
        raise ConfigurationError(
            f"kv_contract 'paged': the model caps attention scores, which {target.device.name} "
            "does under the gather contract only. Leave the setting out."
        )
    if wanted not in offered:
        raise ConfigurationError(
            f"kv_contract '{wanted}': {target.device.name} serves {', '.join(offered)}."
        )
    return KVContract(wanted)


def graph_shapes(config: VllmConfig, target: Target) -> Shapes:
    """The shapes for a configuration.

    Args:
        config: for the scheduler's limits.
        target: settings and device.

    Raises:
        ConfigurationError: bucket settings that don't fit the limits.
    """
    scheduler, settings = config.scheduler_config, target.settings
    capabilities = target.device.capabilities
    divisor = capabilities.bucket_step
    tokens = scheduler.max_num_batched_tokens
    requests = scheduler.max_num_seqs
    contract = contract_of(target, config)
    if contract is KVContract.PAGED and _dynamic(target):
        # An extent of 1 would be taken for a fixed one.
        most = Shape(contract, max(tokens, 2), max(requests, 2), dynamic=True)
        return Shapes({most.tokens: most}, {}, {})
    if contract is not KVContract.PAGED and settings.dynamic_tokens:
        raise ConfigurationError(
            "dynamic_tokens: the gather contract has static shapes only. Leave the setting out, "
            "or set kv_contract to 'paged'."
        )
    if contract is KVContract.PAGED:
        sizes = bucket_sizes("token_bucket", settings.token_bucket, tokens, divisor)
        paged = {size: Shape(contract, size, min(size, requests)) for size in sizes}
        return Shapes(paged, {}, {})

    whole = config.model_config.runner_type == "pooling" and not chunks_prefill(config)
    chunk = tokens if whole else min(settings.prefill_chunk_size or DEFAULT_PREFILL_CHUNK, tokens)
    chunk = min(chunk, capabilities.max_tokens or chunk)
    if whole and chunk < config.model_config.max_model_len:
        raise ConfigurationError(
            f"max_model_len {config.model_config.max_model_len}: the model reads a prompt in one "
            f"run, and {target.device.name} runs {chunk} tokens at most. "
            f"Use --max-model-len {chunk}."
        )
    batch = min(requests, capabilities.max_batch_size or requests)
    decode_sizes = bucket_sizes("decode_batch_bucket", settings.decode_batch_bucket, batch, divisor)
    chunk_sizes = bucket_sizes(
        "prefill_chunk_bucket", settings.prefill_chunk_bucket, chunk, divisor
    )
    decode = {} if whole else {size: Shape(contract, size, size) for size in decode_sizes}
    return Shapes({}, decode, {size: Shape(contract, size, 1) for size in chunk_sizes})


def _dynamic(target: Target) -> bool:
    """Whether one graph serves every number of tokens.

    Raises:
        ConfigurationError: it is asked for, and the device or another setting forbids it.
    """
    settings, capabilities = target.settings, target.device.capabilities
    bucketed = settings.token_bucket != BucketSettings()
    if settings.dynamic_tokens is None:
        return capabilities.dynamic_tokens and not bucketed
    if settings.dynamic_tokens and capabilities.static_shapes_only:
        raise ConfigurationError(
            f"dynamic_tokens: {target.device.name} runs static shapes only. Leave the setting out."
        )
    if settings.dynamic_tokens and bucketed:
        raise ConfigurationError(
            "dynamic_tokens: one graph takes any number of tokens, so token_bucket would be "
            "ignored. Leave one of the two out."
        )
    return settings.dynamic_tokens


def _soft_cap(config: VllmConfig) -> bool:
    """Whether the model bends attention scores, as Gemma 2 does."""
    text = config.model_config.hf_text_config
    return bool(getattr(text, "attn_logit_softcapping", None))


def chunks_prefill(config: VllmConfig) -> bool:
    """Whether a prompt may be read in several runs, which needs a KV cache."""
    return bool(config.scheduler_config.enable_chunked_prefill) and (
        config.model_config.attn_type not in ("encoder_only", "attention_free")
    )
