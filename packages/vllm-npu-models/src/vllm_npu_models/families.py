"""Which architectures there are. What families differ in is in the artifact, not in code.

`vllm-npu compile` writes the names that begin with NPU; Mobilint's own releases, and the
directories that come from its compiler, name theirs `Mobilint…`.
"""

from __future__ import annotations

FAMILIES = ("Llama", "Exaone", "Exaone4", "Qwen2", "Qwen3")
MAKERS = ("NPU", "Mobilint")

ARCHITECTURES: tuple[str, ...] = tuple(
    f"{maker}{family}ForCausalLM" for maker in MAKERS for family in FAMILIES
)
