"""The start-up line says where the model runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vllm_npu_platform.graph.shapes import graph_shapes
from vllm_npu_platform.memory import GIB
from vllm_npu_platform.start_up import start_up_line
from vllm_npu_platform.stats import counters as names
from vllm_npu_platform.stats.counters import Counters
from vllm_npu_platform.target import Target
from vllm_npu_runtime.settings import BucketSettings


def worker(target: Target, config: Any, caches: list[torch.Tensor]) -> Any:
    counters = Counters()
    counters.declare([])
    counters.add(names.COMPILED, 3)
    return SimpleNamespace(
        target=target,
        counters=counters,
        vllm_config=config,
        model_runner=SimpleNamespace(dtype=torch.bfloat16, kv_caches=caches),
        cache_config=SimpleNamespace(num_gpu_blocks=7),
    )


def executor(shapes: Any, host: set[str]) -> Any:
    return SimpleNamespace(prefix="", shapes=shapes, host_operators=host)


def parts(line: str) -> list[str]:
    assert "\n" not in line
    return line.split("; ")


def test_it_names_device_dtype_cache_graphs_and_what_the_host_does(
    make_target: Callable[..., Target], make_config: Callable[..., Any]
) -> None:
    few = BucketSettings(strategy="exponential", step=8, limit=2)
    target = make_target(kv_contract="paged", token_bucket=few)
    cache = torch.empty(GIB // 8, dtype=torch.float16)  # Never touched, so it takes no memory.
    shapes = graph_shapes(make_config(), target)
    line = start_up_line(
        worker(target, make_config(), [cache, cache]),
        [executor(shapes, {"aten.sort", "aten.cumsum"})],
        1.5,
    )
    device, dtype, kv, graphs, buckets, left, threads = parts(line)
    assert device.startswith("NPU platform: paper (host (")
    assert device.endswith(f"torch {torch.__version__}")
    assert dtype == "bfloat16"
    # A cache that two layers share counts once.
    assert kv == "paged contract, KV NHC, 0.25 GiB of float16, 7 blocks"
    assert graphs == "3 graphs compiled and 0 loaded in 1.5 s"
    assert buckets == "buckets tokens=8, tokens=64"
    assert left == "on the host: aten.cumsum, aten.sort"
    assert threads == f"threads: PyTorch {torch.get_num_threads()}"


ALL = (torch.float32, torch.bfloat16, torch.float16)
WIDE = dict.fromkeys((torch.bfloat16, torch.float16), torch.float32)
FASTER = "packed weights are faster: --quantization npu_w8a16 or npu_w4a16"


@pytest.mark.parametrize(
    ("arithmetic", "formats", "method", "suggested"),
    [
        (WIDE, ("u4",), None, True),
        (WIDE, ("u4",), "gptq", False),
        (WIDE, (), None, False),
        ({torch.bfloat16: torch.float32}, ("u4",), None, False),  # float16 would be faster, too
    ],
)
def test_it_says_what_a_model_is_computed_in_and_what_would_be_faster(
    make_target: Callable[..., Target],
    make_config: Callable[..., Any],
    arithmetic: dict[torch.dtype, torch.dtype],
    formats: tuple[str, ...],
    method: str | None,
    suggested: bool,
) -> None:
    limits = {"dtypes": ALL, "arithmetic": arithmetic, "weight_formats": formats}
    config = make_config()
    config.model_config.quantization = method
    line = start_up_line(worker(make_target(limits), config, []), [], 0.0)
    assert parts(line)[1] == "bfloat16 computed in float32"
    assert (FASTER in line) is suggested


def test_it_says_so_where_there_is_no_cache_no_graph_and_nothing_left_over(
    make_target: Callable[..., Target], make_config: Callable[..., Any]
) -> None:
    line = start_up_line(worker(make_target(), make_config(), []), [], 0.0)
    *_, kv, graphs, buckets, host, _threads = parts(line)
    assert kv == "paged contract, no KV cache"
    assert graphs == "no graphs (enforce_eager)"
    assert buckets == "no buckets"
    assert host == "no operator left on the host"
