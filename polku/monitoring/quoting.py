"""Write names of strangers into commands that people copy."""

from __future__ import annotations

import re
import shlex

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def quoted(text: str) -> str:
    """Return text as one word of a shell, in which nothing acts on the terminal."""
    if not _UNPRINTABLE.search(text):
        return shlex.quote(text)
    return "$'" + _UNPRINTABLE.sub(_escaped, text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
