"""Writes the configuration page: `settings_docs.md`, with tables from the settings model.

``python -m vllm_npu_runtime.settings_docs docs/configuration.md``; with ``--check`` it writes
nothing, and fails when the page is not what it would write.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from vllm_npu_runtime.settings import BucketSettings, Settings
from vllm_npu_runtime.settings_fields import Setting, settings_of

HEAD = "<!-- Generated from the settings model by `nox -s docs`. Don't edit. -->\n"
LESS = "or what the device takes at once where that is less"
MAXIMUM = {
    "token_bucket": "`--max-num-batched-tokens`",
    "decode_batch_bucket": f"`--max-num-seqs`, {LESS}",
    "prefill_chunk_bucket": f"`prefill_chunk_size`, {LESS}",
}


def page() -> str:
    """The page in Markdown."""
    buckets = {
        name: str(field.description)
        for name, field in Settings.model_fields.items()
        if field.annotation is BucketSettings
    }
    every = settings_of(Settings)
    plain = [each for each in every if each.path[0] not in buckets]
    of_buckets = [each for each in every if each.path[0] in buckets]
    tables = {
        "settings": _table(
            ("Key", "Variable", "Takes", "Default", ""),
            ((_code(each.key), _code(each.variable), *_meaning(each)) for each in plain),
        ),
        "buckets": _table(
            ("Key", "Counts", "Maximum"),
            ((_code(name), text, MAXIMUM[name]) for name, text in buckets.items()),
        ),
        "bucket fields": _table(
            ("Key in a bucket", "Takes", "Default", ""),
            ((_code(each.key), *_meaning(each)) for each in settings_of(BucketSettings)),
        ),
        "bucket variables": _table(
            ("Key", "Variable"),
            ((_code(each.key), _code(each.variable)) for each in of_buckets),
        ),
    }
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    for name, table in tables.items():
        text = text.replace(f"<!-- table: {name} -->", table)
    return HEAD + text


def main(arguments: list[str] | None = None) -> int:
    """Write or check the page; returns the exit status."""
    parser = argparse.ArgumentParser(prog="settings_docs", description="Document the settings.")
    parser.add_argument("path", type=Path, help="the page to write")
    parser.add_argument("--check", action="store_true", help="fail when the page is stale")
    given = parser.parse_args(arguments)
    if not given.check:
        given.path.write_text(page(), encoding="utf-8")
    elif not given.path.exists() or given.path.read_text(encoding="utf-8") != page():
        print(f"{given.path} is stale: run `nox -s docs`.", file=sys.stderr)
        return 1
    return 0


def _meaning(setting: Setting) -> tuple[str, str, str]:
    takes = ", ".join(map(_code, setting.choices)) or setting.allowed
    return takes, _code(setting.default), setting.description


def _code(text: str) -> str:
    return "none" if text == "none" else f"`{text}`"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
