"""The attention backend: vLLM's attention layers in terms of the runtime's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionImpl,
    AttentionLayer,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec
from vllm.v1.kv_cache_layout import KVCacheLayout

import vllm_npu_runtime.ops.table  # noqa: F401  (registers the operators)
from vllm_npu_platform.attention.metadata import GatherMetadata, PagedMetadata
from vllm_npu_runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheSpec


class NPUAttentionBackend(AttentionBackend):
    """Decoder layers with a paged cache, and encoder-only layers without one."""

    @staticmethod
    def get_name() -> str:
        """vLLM looks the name up in an enumeration; this is its member for plugins."""
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[NPUAttentionImpl]:
        """The layer's computation."""
        return NPUAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[NPUMetadataBuilder]:
        """The step's metadata."""
        return NPUMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(
        kv_cache_spec: KVCacheSpec | None = None,
    ) -> list[int | MultipleOf]:
        """Any; a device's own limits are checked with the configuration."""
        return [MultipleOf(1)]

    @classmethod
    def supports_attn_type(cls, attn_type: str) -> bool:
        """Decoders and encoder-only models."""
        return attn_type in (AttentionType.DECODER, AttentionType.ENCODER_ONLY)

    @classmethod
    def supports_sliding_window(cls) -> bool:
        """Yes."""
        return True

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """One layer after the other, and blocks contiguous in a layer."""
        return (KVCacheLayout.LBHNC,)


class NPUMetadataBuilder(AttentionMetadataBuilder[PagedMetadata]):
    """Hands the step's tensors on: the graph executor decides how they are padded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> PagedMetadata:
        """The metadata of one group of layers.

        Raises:
            ConfigurationError: a step that isn't causal, as some draft models ask for.
        """
        encoder = isinstance(self.kv_cache_spec, EncoderOnlyAttentionSpec)
        if common_attn_metadata.causal is not True and not encoder:
            raise ConfigurationError("Decoder attention that isn't causal is not supported.")
        return PagedMetadata(
            block_table=common_attn_metadata.block_table_tensor,
            slot_mapping=common_attn_metadata.slot_mapping,
            query_start_loc=common_attn_metadata.query_start_loc,
            seq_lens=common_attn_metadata.seq_lens,
        )


class NPUAttentionImpl(AttentionImpl[PagedMetadata]):
    """One attention layer."""

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        **unknown: Any,
    ) -> None:
        given = {name: value for name, value in unknown.items() if value not in (None, False, -1)}
        if alibi_slopes is not None:
            given["alibi_slopes"] = alibi_slopes
        if given:
            raise ConfigurationError(
                f"The model's attention uses {', '.join(sorted(given))}, which no device computes "
                "here. Supported: causal and encoder-only attention with grouped queries, scale, "
                "sliding window and logits soft cap."
            )
        self.num_heads = num_heads
        self.head_size = head_size
        self.num_kv_heads = num_kv_heads
        self.scale = float(scale)
        self.sliding_window = sliding_window or 0
        self.soft_cap = float(logits_soft_cap or 0.0)
        self.attn_type = attn_type
        self.shares_kv_of = kv_sharing_target_layer_name

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        kv_cache: torch.Tensor,
        attn_metadata: PagedMetadata | GatherMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend, and put the result into `output`.

        Args:
            layer: the attention layer, for its name.
            query: `[T, H, D]`.
            key: `[T, G, D]`, or None where the layer reads another layer's cache.
            value: likewise.
            kv_cache: `[blocks, G, S, 2 * D]`.
            attn_metadata: of the layer's group; None in a run without requests.
            output: `[T, H, D]`.
            output_scale: never given, as there is no quantized output.
            output_block_scale: likewise.
        """
        if attn_metadata is None:
            return output.zero_()
        options = (self.scale, self.sliding_window, self.soft_cap)
        operators = torch.ops.vllm_npu
        if self.attn_type == AttentionType.ENCODER_ONLY:
            result = operators.encoder_attention(
                query, key, value, attn_metadata.query_start_loc, *options
            )
        elif isinstance(attn_metadata, GatherMetadata):
            result = self._gather(layer, query, key, value, kv_cache, attn_metadata)
        else:
            if self.shares_kv_of is not None:
                key = value = None
            result = operators.paged_attention(
                query,
                key,
                value,
                kv_cache,
                attn_metadata.block_table,
                attn_metadata.slot_mapping,
                attn_metadata.query_start_loc,
                attn_metadata.seq_lens,
                *options,
            )
        return output.copy_(result.view_as(output))

    def _gather(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor | None,
        value: torch.Tensor | None,
        kv_cache: torch.Tensor,
        metadata: GatherMetadata,
    ) -> torch.Tensor:
        if self.shares_kv_of is not None:
            key = metadata.new_keys[self.shares_kv_of]
            value = metadata.new_values[self.shares_kv_of]
        elif key is not None and value is not None:
            name = layer.layer_name
            metadata.new_keys[name] = key
            metadata.new_values[name] = value
        result: torch.Tensor = torch.ops.vllm_npu.gather_attention(
            query,
            key,
            value,
            kv_cache,
            metadata.block_table,
            metadata.context_lens,
            self.scale,
            self.sliding_window,
            self.soft_cap,
        )
        return result
