"""What `vllm serve` says to arguments that it refuses before it starts anything.

Importing vLLM takes seconds, so one process tries all the cases: `python -m
tests.server.refusals` reads them as JSON from standard input, and writes what each was answered.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

ANSWERS = "ANSWERS "


@dataclass(frozen=True)
class Case:
    """One command line.

    Attributes:
        arguments: what would follow `vllm serve`.
        variables: environment variables over those of the process.
    """

    arguments: list[str]
    variables: dict[str, str] = field(default_factory=dict)


def answer(case: Case) -> str:
    """The error's text as the user reads it; "" if the configuration is accepted."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    said = io.StringIO()
    with mock.patch.dict(os.environ, case.variables), contextlib.redirect_stderr(said):
        try:
            parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
            arguments = parser.parse_args(["--model", *case.arguments])
            AsyncEngineArgs.from_cli_args(arguments).create_engine_config()
        except SystemExit:
            return said.getvalue().rstrip().rsplit("\n", 1)[-1]
        except Exception as error:
            return str(error) or repr(error)
    return ""


def request(cases: dict[str, Case]) -> str:
    """What the process reads."""
    return json.dumps({name: asdict(case) for name, case in cases.items()})


def main() -> None:
    """Answer all the cases."""
    cases: dict[str, Any] = json.load(sys.stdin)
    answers = {name: answer(Case(**case)) for name, case in cases.items()}
    print(ANSWERS + json.dumps(answers))


if __name__ == "__main__":
    main()
