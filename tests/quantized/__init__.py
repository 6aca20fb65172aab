"""Tiny checkpoints in the formats that quantizers write, each with its dequantized twin.

The layouts are written down here a second time, number by number as their authors define them, so
that no mistake of the loader's is repeated; compressed-tensors are made by its own compressor.
"""

from tests.quantized.writing import Written, write

__all__ = ["Written", "write"]
