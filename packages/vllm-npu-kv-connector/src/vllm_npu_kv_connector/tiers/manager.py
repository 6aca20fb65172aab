"""The tiers that vLLM makes by type, with options of a user's tier configuration."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from vllm.v1.kv_offload.tiering.backpressure import BackpressureDetector
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from vllm_npu_kv_connector.tiers.base import StoreTierManager
from vllm_npu_kv_connector.tiers.directory import DirectoryStore
from vllm_npu_kv_connector.tiers.redis_connection import RedisAddress
from vllm_npu_kv_connector.tiers.redis_store import RedisStore


class IdentifiedSpec(Protocol):
    """The part of an offloading spec that tiers need.

    Attributes:
        identity: 64 hexadecimal digits: what blocks depend on besides tokens.
    """

    identity: str


class DirectoryTier(StoreTierManager):
    """Type ``npu_fs``: a directory, as of `DirectoryStore`."""

    def __init__(
        self,
        offloading_spec: IdentifiedSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: BackpressureDetector | None = None,
        *,
        root_dir: str,
        max_bytes: int,
        **common: Any,
    ) -> None:
        """As vLLM calls it; options as of `DirectoryStore` and `StoreTierManager`.

        Raises:
            ConfigurationError: the directory can't be used.
        """
        store = DirectoryStore(
            root_dir,
            offloading_spec.identity,
            block_bytes=_block_bytes(primary_kv_view),
            max_bytes=max_bytes,
        )
        super().__init__(
            offloading_spec,
            primary_kv_view,
            tier_type,
            store,
            backpressure_detector=backpressure_detector,
            **common,
        )


class RedisTier(StoreTierManager):
    """Type ``npu_redis``: a Redis or Valkey server, as of `RedisStore`."""

    # vLLM has no name for a store of several machines; "disk" would be wrong.
    cache_hit_source: ClassVar[CacheHitSource] = CacheHitSource.EXTERNAL_UNSPECIFIED

    def __init__(
        self,
        offloading_spec: IdentifiedSpec,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: BackpressureDetector | None = None,
        *,
        url: str,
        username: str | None = None,
        password: str | None = None,
        ca_certs: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
        connect_timeout: float = 2.0,
        timeout: float = 2.0,
        key_prefix: str = "vllm-npu",
        ttl: int | None = None,
        **common: Any,
    ) -> None:
        """As vLLM calls it; options as of `RedisAddress`, `RedisStore` and `StoreTierManager`.

        Raises:
            ConfigurationError: the server can't be reached or used.
        """
        address = RedisAddress(
            url=url,
            username=username,
            password=password,
            ca_certs=ca_certs,
            certfile=certfile,
            keyfile=keyfile,
            connect_timeout=connect_timeout,
            timeout=timeout,
        )
        store = RedisStore(
            address,
            offloading_spec.identity,
            block_bytes=_block_bytes(primary_kv_view),
            key_prefix=key_prefix,
            ttl=ttl,
        )
        super().__init__(
            offloading_spec,
            primary_kv_view,
            tier_type,
            store,
            backpressure_detector=backpressure_detector,
            **common,
        )


def _block_bytes(primary_kv_view: memoryview) -> int:
    assert primary_kv_view.strides is not None
    return primary_kv_view.strides[0]
