"""What must not get into a bug report: secrets, and who and where the user is."""

from __future__ import annotations

import getpass
import os
import re

from vllm_npu_runtime.settings import environment_variables

HIDDEN = "<hidden>"

_SECRET = r"(?:api|access)?_?(?:key|token|secret|password|passwd|credentials?|auth)"
_SECRET_NAME = re.compile(rf"(?:^|_){_SECRET}(?:_|$)", re.IGNORECASE)
_SECRET_PAIR = re.compile(rf'(\w*{_SECRET}"?\s*[:=]\s*)("[^"]*"|[^\s,}}"]+)', re.IGNORECASE)
_USER_IN_ADDRESS = re.compile(r"(\w+://)[^/\s@]+@")
_HOMES = re.compile(r"(/home/|/Users/|[A-Z]:\\Users\\)[^/\\\s'\",:;)]+")


def without_secrets(name: str, value: str) -> str:
    """A variable's value; hidden if the name, or a key within the value, sounds like a secret."""
    ours = name in environment_variables()  # TOKEN is a bucket's word, too
    if value and not ours and _SECRET_NAME.search(name):
        return HIDDEN
    value = _SECRET_PAIR.sub(rf"\1{HIDDEN}", value)
    return _USER_IN_ADDRESS.sub(rf"\1{HIDDEN}@", value)


def without_whereabouts(text: str) -> str:
    """Text without the paths of homes and the user's name."""
    home = os.path.expanduser("~").rstrip("/")
    if home:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    text = _HOMES.sub(r"\1<user>", text)
    return re.sub(rf"(?<=[/\\]){re.escape(_user())}(?![\w.-])", "<user>", text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return "<user>"
