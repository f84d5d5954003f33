"""The documents keep to the house's words, and every public name stands in one of them."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import polku
from polku.cli.settings import describe_settings
from tests.docs.pages import PAGES, ROOT, prose

TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
AVOIDED = {
    r"under way": "in flight",
    r"let(s|ting)? go( of)?": "release",
    r"goes on|going on|go on": "continue",
    r"for good": "permanently",
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again",
    r"so (many|much)(?! (as|that))": "that many, this much, the number of",
    r"beside": "next to, besides",
    r"told": "notified, configured",
    r"door(s)?": "server, address, port",
    r"bury|buried": "make a dead letter of",
    r"say(s)? whether": "return whether",
    r"in earnest": "in reality",
}
CLASS = re.compile(r"`([A-Z]\w*[a-z]\w*)`")
INTERNALS = ROOT / "docs" / "internals.md"
COMPONENTS = ROOT / "docs" / "components.md"


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_no_avoided_word_is_used(page: Path) -> None:
    text = prose(page)
    found = {
        found[0]: instead for word, instead in AVOIDED.items() for found in re.finditer(rf"\b({word})\b", text, re.I)
    }

    assert not found, f"write instead: {found}"


@pytest.mark.parametrize("word", ["It is under way.", "Beside it", "so many lanes", "He was told.", "Two doors"])
def test_avoided_words_are_found(word: str, tmp_path: Path) -> None:
    assert any(re.search(rf"\b({avoided})\b", word, re.I) for avoided in AVOIDED)


def test_every_public_name_stands_in_the_components_or_the_glossary() -> None:
    text = COMPONENTS.read_text("utf-8") + INTERNALS.read_text("utf-8")
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", text))))

    assert {name for name in polku.__all__ if not name.startswith("__")} - named == set()


def test_every_class_that_the_internals_name_exists() -> None:
    sources = [*(ROOT / "polku").rglob("*.py"), *(ROOT / "actors").rglob("*.py")]
    known = {
        node.name
        for source in sources
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    named = set(CLASS.findall(INTERNALS.read_text("utf-8")))

    assert named - known - {"ObjectRef", "Ack", "AckError", "Event"} == set()


@pytest.mark.parametrize("page", TEXTS, ids=_name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if "//" not in link]
    paths = re.findall(r"`((?:polku|actors|tests|examples|proto|docs)/(?!_build)[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]

    assert missing == []


def test_the_table_of_settings_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {what} |" for name, default, what in describe_settings()
    ]

    assert "\n".join(rows) in text.replace("|  |", "| |").replace("| |", "|  |"), "\n".join(rows)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 7 * 1024


def test_the_general_layout_names_what_there_is() -> None:
    assert polku.__doc__ is not None
    layout = polku.__doc__.partition("General layout")[2]
    names = re.findall(r"^- ([\w ,/]+):", layout, re.M)
    modules = [name for line in names for name in re.split(r"[ ,]+", line)]

    assert len(modules) > 20
    assert [name for name in modules if importlib.util.find_spec(f"polku.{name.replace('/', '.')}") is None] == []
