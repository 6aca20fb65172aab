"""How the engine's processes are started, and how they end.

A start imports vLLM once: the engine process is forked from the one that has imported it, where
that is safe (`quiet`), else from a fork server (`fork_server`), else it is spawned.
"""
