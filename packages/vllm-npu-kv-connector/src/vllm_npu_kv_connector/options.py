"""What a user may write in `kv_connector_extra_config`, and what vLLM is given of it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from vllm_npu_kv_connector.host_memory import default_bytes
from vllm_npu_kv_connector.names import DIRECTORY_TIER, IDENTITY, REDIS_TIER, SPEC
from vllm_npu_kv_connector.policy.policy import LoadMode
from vllm_npu_runtime.errors import ConfigurationError

Bytes = Annotated[ByteSize, Field(gt=0)]
"""A number of bytes, or text as "4GiB"."""

PLACE = "kv_connector_extra_config"


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DirectoryOptions(_Options):
    """A directory of block files, shared by the engines of one machine.

    Attributes:
        root_dir: made where it isn't there, and private to the user.
        max_bytes: of all files in it, whichever engine wrote them.
        n_read_threads: that prefer loads.
        n_write_threads: that prefer stores.
    """

    type: Literal["fs"]
    root_dir: Path
    max_bytes: Bytes
    n_read_threads: PositiveInt = 2
    n_write_threads: PositiveInt = 1


class RedisOptions(_Options):
    """A Redis or Valkey server, shared by engines on any machine; its own `maxmemory` limits it.

    Attributes:
        url: `redis://host:port/database`, or `rediss://` for TLS.
        username: if it isn't in the URL.
        password: likewise; better in the variable `REDISCLI_AUTH`, which counts where neither
            has one.
        key_prefix: of all keys.
        ttl: seconds after which a block that nobody reads is forgotten.
        connect_timeout: seconds.
        timeout: seconds for an answer; a slower server counts as gone.
        ca_certs: file of the authorities that sign the server's certificate.
        certfile: this client's certificate.
        keyfile: its key.
        n_read_threads: that prefer loads.
        n_write_threads: that prefer stores.
    """

    type: Literal["redis", "valkey"]
    url: str
    username: str | None = None
    password: str | None = None
    key_prefix: str = "vllm-npu"
    ttl: PositiveInt | None = None
    connect_timeout: PositiveFloat = 2.0
    timeout: PositiveFloat = 2.0
    ca_certs: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    n_read_threads: PositiveInt = 2
    n_write_threads: PositiveInt = 1


Tier = Annotated[DirectoryOptions | RedisOptions, Field(discriminator="type")]
_LIKE = {"disk": "fs", "directory": "fs", "file": "fs"}
"""What else people may call them."""
_TYPES = {"fs": DIRECTORY_TIER, "redis": REDIS_TIER, "valkey": REDIS_TIER}
_LOCALITIES = {DIRECTORY_TIER: "LOCAL", REDIS_TIER: "REMOTE"}
_MODELS: dict[str, type[BaseModel]] = {
    "fs": DirectoryOptions,
    "redis": RedisOptions,
    "valkey": RedisOptions,
}


class ConnectorOptions(_Options):
    """All of them; names that vLLM has too mean what they mean there.

    Attributes:
        cpu_bytes_to_use: of host memory; see `default_bytes`.
        eviction_policy: of host memory.
        block_size: tokens in a chunk, the unit outside the device; a multiple of the device's
            block size, which is the default.
        blocks_per_chunk: the same in blocks of the device.
        offload_prompt_only: leave out what was generated.
        self_describing_kv_events: as in vLLM.
        secondary_tiers: behind host memory, asked in this order.
        load: `auto` loads where that was measured faster than computing; `always`; `never`.
        load_margin: in `auto`, a load must take less than this share of computing.
        arrival_timeout: seconds that a decode engine waits for what a prefill engine is putting
            into a shared tier, before it computes the prompt itself.
    """

    cpu_bytes_to_use: Bytes = Field(default_factory=lambda: ByteSize(default_bytes()))
    eviction_policy: Literal["lru", "arc"] = "lru"
    block_size: PositiveInt | None = None
    blocks_per_chunk: PositiveInt | None = None
    offload_prompt_only: bool = False
    self_describing_kv_events: bool = False
    secondary_tiers: tuple[Tier, ...] = ()
    load: LoadMode = LoadMode.AUTO
    load_margin: PositiveFloat = 0.9
    arrival_timeout: PositiveFloat = 5.0

    @model_validator(mode="after")
    def _one_chunk_size(self) -> ConnectorOptions:
        if self.block_size is not None and self.blocks_per_chunk is not None:
            raise ValueError("give block_size or blocks_per_chunk, not both")
        return self

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ConnectorOptions:
        """Check what the user wrote.

        Raises:
            ConfigurationError: with a line for each problem.
        """
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            lines = dict.fromkeys(_line(details, given) for details in error.errors())
            raise ConfigurationError("\n".join(lines)) from None

    def for_vllm(self, identity: str) -> dict[str, Any]:
        """The same in vLLM's terms, with our classes' names."""
        ours = {"load", "load_margin", "arrival_timeout", "secondary_tiers"}
        plain = self.model_dump(mode="json", exclude_none=True, exclude=ours)
        tiers = [
            tier.model_dump(mode="json", exclude_none=True)
            | {"type": _TYPES[tier.type], "locality": _LOCALITIES[_TYPES[tier.type]]}
            for tier in self.secondary_tiers
        ]
        return plain | {"spec_name": SPEC, IDENTITY: identity, "secondary_tiers": tiers}


def _line(details: Any, given: Mapping[str, Any]) -> str:
    """One problem: where, what was given, what is allowed."""
    path = [each for each in details["loc"] if each not in _TYPES]
    place = PLACE + "".join(f"[{e}]" if isinstance(e, int) else f".{e}" for e in path)
    kind, value = details["type"], details.get("input")
    if kind == "extra_forbidden":
        known = list(_model_at(path, given).model_fields)
        return f"{place}: unknown option.{_hint(str(path[-1]), known)} Known: {', '.join(known)}."
    if kind == "missing":
        return f"{place}: it must be given."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        named = value.get("type") if isinstance(value, Mapping) else value
        hint = _hint(str(named), list(_TYPES), _LIKE.get(str(named)))
        return f"{place}: unknown tier type {named!r}.{hint} Known: {', '.join(_TYPES)}."
    secret = path[-1:] == ["password"] or path[-1:] == ["url"]
    shown = "" if secret or kind == "value_error" else f" {value!r}"
    return f"{place}{shown}: {details['msg'].removeprefix('Value error, ')}."


def _model_at(path: list[Any], given: Mapping[str, Any]) -> type[BaseModel]:
    if len(path) < 3 or path[0] != "secondary_tiers":
        return ConnectorOptions
    return _MODELS[given["secondary_tiers"][path[1]]["type"]]


def _hint(name: str, known: list[str], like: str | None = None) -> str:
    near = [like] if like is not None else get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
