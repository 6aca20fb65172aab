"""Where commands print to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

FILE_WIDTH = 200


def wide_console() -> Console:
    """Standard output; wide where it isn't a terminal, so that files hold whole lines."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(highlight=False, markup=False, width=width)
