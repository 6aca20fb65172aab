"""Which of our plugins vLLM activates under given environment variables.

`python -m tests.server.plugin_probe` reads the cases as JSON from standard input, and writes what
it found. Each case imports vLLM in a process of its own, forked from one that has already loaded
what vLLM builds on, since that takes most of the time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from typing import Any

ANSWERS = "ANSWERS "
PRELOADED = ("torch._dynamo", "torch.distributed", "transformers.generation", "openai.types")


def look() -> dict[str, Any]:
    """What is active in this process."""
    from vllm.platforms import current_platform
    from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories

    factories = load_stat_logger_plugin_factories()
    return {
        "platform": type(current_platform).__name__,
        "stats": [getattr(each, "__name__", "") for each in factories],
    }


def probe(variables: dict[str, str | None]) -> dict[str, Any]:
    """Look in a process of its own; also what that said."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as found:
        if (child := os.fork()) == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            for name, value in variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            try:
                json.dump(look(), found)
                found.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        found.seek(0)
        answer = json.load(found) if status == 0 else {}
        return {**answer, "said": said.read()}


def main() -> None:
    """Probe all the cases."""
    cases = json.load(sys.stdin)
    for module in PRELOADED:
        __import__(module)
    answers = {name: probe(variables) for name, variables in cases.items()}
    print(ANSWERS + json.dumps(answers))


if __name__ == "__main__":
    main()
