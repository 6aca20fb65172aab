"""Which of our plugins vLLM activates under given environment variables.

`python -m tests.server.plugin_probe` reads the cases as JSON from standard input, and writes what
it found. Each case is a process of its own, forked from one that has imported vLLM without plugins,
since that takes most of the time; there vLLM looks for its platform again. The first case imports
all for itself.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from typing import Any

ANSWERS = "ANSWERS "
PRELOADED = "vllm.v1.metrics.loggers"


def look() -> dict[str, Any]:
    """What is active in this process."""
    from vllm import platforms
    from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories

    platforms._current_platform = None
    current_platform = platforms.current_platform
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
    answers = {}
    for name, variables in cases.items():
        answers[name] = probe(variables)
        os.environ["VLLM_PLUGINS"] = ""  # none
        __import__(PRELOADED)
    print(ANSWERS + json.dumps(answers))


if __name__ == "__main__":
    main()
