"""The runtime of vllm-npu: drivers, operators, programs, settings and errors.

Importing this package imports neither torch nor vllm; the submodules bring in what they need.
"""

__version__ = "0.1.0"
