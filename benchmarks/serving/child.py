"""One engine in a process of its own: JSON lines in, JSON lines out.

`python -m benchmarks.serving.child MODULE`, where MODULE is one of `contenders`. It is asked
`{"do": "start", ...}` first, then `{"do": "generate", ...}` again and again (or, of the machine
instead of an engine, its `limits`), then `{"do": "stop"}`; each answer is one line. Whatever else
is printed goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from benchmarks.serving.contenders.base import Engine


def private_output() -> TextIO:
    """Standard output for answers alone: what others print there, processes that the engine
    starts included, goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def start(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    """The engine from nothing to its first token, in seconds."""
    begin = time.perf_counter()
    engine.load()
    loaded = time.perf_counter()
    engine.start(Path(asked["checkpoint"]), asked["room"])
    constructed = time.perf_counter()
    engine.generate([asked["prompt"]], 1)
    return {
        "import_s": loaded - begin,
        "constructor_s": constructed - loaded,
        "engine_s": time.perf_counter() - loaded,
        "versions": engine.versions(),
        "settings": engine.settings,
    }


def generate(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one call, and what came out."""
    before = engine.device_seconds()
    begin = time.perf_counter()
    tokens = engine.generate(asked["prompts"], asked["new_tokens"])
    seconds = time.perf_counter() - begin
    after = engine.device_seconds()
    if [len(each) for each in tokens] != [asked["new_tokens"]] * len(asked["prompts"]):
        raise RuntimeError(f"asked for {asked['new_tokens']} tokens each, got {tokens}")
    device = None if before is None or after is None else after - before
    return {"seconds": seconds, "device_seconds": device, "first": [each[0] for each in tokens]}


def limits(machine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """What the machine can do."""
    found: dict[str, Any] = machine.limits(asked["threads"], asked["dtype"])
    return found


ANSWERS = {"start": start, "generate": generate, "limits": limits}


def main() -> None:
    """Answer until told to stop; an error is an answer too, and the end."""
    answers = private_output()
    try:
        engine = import_module(sys.argv[1]).Contender()
        for line in sys.stdin:
            asked = json.loads(line)
            if asked["do"] == "stop":
                if hasattr(engine, "close"):
                    engine.close()
                break
            print(json.dumps(ANSWERS[asked["do"]](engine, asked)), file=answers)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
        sys.exit(1)


if __name__ == "__main__":
    main()
