"""Docstrings are written in Markdown, as far as they need any: turn that into what autodoc reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_CODE = re.compile(r"(`[^`]+`)")
_FIELD = "Alias for field number"  # what each field of a NamedTuple says


def setup(app: Sphinx) -> dict[str, bool]:
    """Have each docstring converted, and leave out members that say nothing."""
    app.connect("autodoc-process-docstring", _convert)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def as_rst(lines: list[str]) -> list[str]:
    """Return lines of Markdown as reStructuredText: fenced blocks, code in the text, and what must be escaped."""
    converted: list[str] = []
    fenced = False
    for line in lines:
        if line.lstrip().startswith("```"):
            converted += [] if fenced else ["", f".. code-block:: {line.strip(' `') or 'text'}"]
            converted.append("")
            fenced = not fenced
        else:
            converted.append(f"    {line}" if fenced else _text(line))
    return converted


def _text(line: str) -> str:
    bullet = re.match(r"\s*[*-] ", line)
    start = bullet.end() if bullet else 0
    parts = _CODE.split(line[start:])
    made = [f"`{part}`" if place % 2 else _escape(part, place) for place, part in enumerate(parts)]
    return line[:start] + "".join(made)


def _escape(text: str, place: int) -> str:
    joined = "\\ " if place and text[:1].isalnum() else ""  # code and the letters after it
    return joined + re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", text)


def _convert(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    lines[:] = as_rst(lines)


def _skip(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    return True if (getattr(obj, "__doc__", None) or "").startswith(_FIELD) else None
