"""What `vllm serve` says to arguments that it refuses before it starts anything.

One process tries all the cases, as none is to see what an engine has left behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tests import forking


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


def answers(cases: Mapping[str, Case]) -> dict[str, str]:
    """What each case is answered, in a process of `tests.forking`."""
    with tempfile.TemporaryDirectory() as directory:
        path, log = Path(directory) / "answers", Path(directory) / "log"
        process = forking.process(_answer_all, cases, path, log=log)
        process.join()
        assert process.exitcode == 0, log.read_text()[-4000:]
        return dict(json.loads(path.read_text()))


def _answer_all(cases: Mapping[str, Case], path: Path) -> None:
    path.write_text(json.dumps({name: answer(case) for name, case in cases.items()}))
