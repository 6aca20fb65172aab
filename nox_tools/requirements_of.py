"""Writes what a distribution requires, less its extras: `requirements_of.py NAME FILE`."""

import sys
from importlib.metadata import requires
from pathlib import Path

if __name__ == "__main__":
    name, out = sys.argv[1:]
    lines = [line for line in requires(name) or [] if "extra ==" not in line]
    Path(out).write_text("\n".join(lines) + "\n")
