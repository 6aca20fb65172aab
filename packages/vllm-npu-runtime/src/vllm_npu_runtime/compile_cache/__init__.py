"""The compile cache: graphs that an earlier start compiled, on disk.

`CompileCache` finds and saves the graphs of one configuration, which a `CacheKey` stands for;
`vllm_npu_runtime.compile_cache.inventory` lists, verifies and clears what is there.
"""

from vllm_npu_runtime.compile_cache.key import CacheKey
from vllm_npu_runtime.compile_cache.location import cache_directory, enabled
from vllm_npu_runtime.compile_cache.saved import Saved
from vllm_npu_runtime.compile_cache.store import CompileCache

__all__ = ["CacheKey", "CompileCache", "Saved", "cache_directory", "enabled"]
