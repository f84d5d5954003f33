"""The pages, as tests read them: fenced blocks of code, and the prose around them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.M | re.S)
LANGUAGES = {"bash", "python", "output", "text"}


class Block(NamedTuple):
    """One fenced block: its language, its text, and what the page says that it prints (lines in order, `…` for any).

    `served` is what the server that was started last prints then.
    """

    language: str
    text: str
    output: str = ""
    served: str = ""

    @property
    def title(self) -> str:
        """The first line."""
        return self.text.partition("\n")[0][:60]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page that run.

    A block in the language `output` belongs to the one before; a second one is what the server prints.
    """
    found: list[Block] = []
    for language, text in _BLOCK.findall(page.read_text("utf-8")):
        if language == "output":
            found[-1] = found[-1]._replace(**{"served" if found[-1].output else "output": text})
        elif language in ("bash", "python"):
            found.append(Block(language, text))
    return found


def languages(page: Path) -> set[str]:
    """Return the languages of all blocks of a page, without the directives of the site."""
    named = re.findall(r"^```(\S*)\n(?:.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    return {language for language in named if not language.startswith("{")}


def prose(page: Path) -> str:
    """Return a page without its blocks and without code in the text."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]+`", "`code`", text)
