"""vLLM's profiler switch writes a trace of the worker."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.config import ProfilerConfig

if TYPE_CHECKING:
    from tests.conftest import Engines


def test_a_trace_shows_the_programs_that_ran(engines: Engines, tmp_path: Path) -> None:
    from vllm import SamplingParams

    config = ProfilerConfig(profiler="torch", torch_profiler_dir=str(tmp_path))
    llm = engines.get("llama", "paged", profiler_config=config)
    llm.start_profile()
    llm.generate("Shall I", SamplingParams(max_tokens=4), use_tqdm=False)
    llm.stop_profile()
    traces = sorted(tmp_path.rglob("*.pt.trace.json*"))
    assert traces
    opener = gzip.open if traces[0].suffix == ".gz" else open
    with opener(traces[0]) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert "vllm_npu::paged_attention" in names
