"""Directives that read the code: the names of a module, the commands, the settings, the limits."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from docstrings import as_rst
from sphinx.util.docutils import SphinxDirective

import polku

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directives known."""
    app.add_directive("polku-names", Names)
    app.add_directive("polku-commands", Commands)
    app.add_directive("polku-settings", Settings)
    app.add_directive("polku-limits", Limits)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _Generated(SphinxDirective):
    """Write reStructuredText and have it parsed."""

    def run(self) -> list[nodes.Node]:
        """Return what was written."""
        return self.parse_text_to_nodes("\n".join(self.lines()) + "\n", allow_section_headings=True)

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        raise NotImplementedError


class Names(_Generated):
    """Document every name that a module exports."""

    required_arguments = 1

    def lines(self) -> Iterator[str]:
        """Yield a section for each kind of name."""
        module = importlib.import_module(self.arguments[0])
        names = [name for name in module.__all__ if not name.startswith("__")]
        known = [name for name in names if module is not polku and getattr(polku, name, None) is getattr(module, name)]
        kinds: dict[str, list[str]] = {}
        for name in names:
            if name not in known:
                kinds.setdefault(_kind(getattr(module, name)), []).append(name)
        if known:
            yield f"{', '.join(f'`{name}`' for name in known)}: as in `polku`."
        for kind, title in (("class", "Classes"), ("function", "Functions"), ("exception", "Errors"), ("wire", "Wire")):
            if kind in kinds:
                yield from _heading(title, "-")
                for name in kinds[kind]:
                    yield from _document(f"{module.__name__}.{name}", kind, getattr(module, name))


class Commands(_Generated):
    """Document every command, its arguments and its options."""

    def lines(self) -> Iterator[str]:
        """Yield a section for each command."""
        from polku.cli.app import app

        app.load()
        yield from self._command(app.group, "polku")

    def _command(self, command: Any, name: str) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if inner is None:
            arguments = [p for p in command.params if p.param_type_name == "argument"]
            options = [p for p in command.params if p.param_type_name == "option"]
            usage = " ".join(
                [name, *(["[OPTIONS]"] if options else []), *(p.metavar or p.name.upper() for p in arguments)]
            )
            yield from _heading(name, "-")
            yield from _block("text", [usage])
            yield from as_rst(inspect.cleandoc(command.help or "").splitlines())
            yield ""
            yield from _table(("argument", ""), [(p.metavar or p.name.upper(), p.help or "") for p in arguments])
            yield from _table(("option", "", "default"), [_option(p) for p in options])
            return
        for title, one in sorted(inner.items()):
            yield from self._command(one, f"{name} {title}")


class Settings(_Generated):
    """Document the environment variables."""

    def lines(self) -> Iterator[str]:
        """Yield a table."""
        from polku.cli.settings import describe_settings

        rows = [
            (f"`{one.variable}`", f"`{one.default}`" if one.default else "", one.meaning) for one in describe_settings()
        ]
        yield from _table(("variable", "default", "meaning"), rows)


class Limits(_Generated):
    """Document the limits on the input."""

    def lines(self) -> Iterator[str]:
        """Yield a table."""
        from polku import Limits as Values

        rows = [(f"`{one.name}`", f"{one.default:,}") for one in dataclasses.fields(Values) if one.init]
        yield from _table(("limit", "default"), rows)


def _kind(obj: Any) -> str:
    if not inspect.isclass(obj) and not inspect.isroutine(obj):
        return "wire"  # an enum of protobuf
    if inspect.isroutine(obj):
        return "function"
    return "exception" if issubclass(obj, BaseException) else "wire" if hasattr(obj, "DESCRIPTOR") else "class"


def _document(path: str, kind: str, obj: Any) -> Iterator[str]:
    if kind != "wire":
        yield f".. auto{kind}:: {path}"
        if kind == "class":
            yield from ("   :members:", "   :inherited-members: tuple, str, Enum, Protocol, object")
        if inspect.isclass(obj) and issubclass(obj, enum.Enum):
            yield "   :undoc-members:"
        yield ""
        return
    descriptor = obj.DESCRIPTOR
    yield f".. py:class:: {path}"
    yield ""
    yield f"   The protobuf {'enum' if hasattr(descriptor, 'values') else 'message'} `{descriptor.full_name}`."
    yield ""
    members = (
        [value.name for value in descriptor.values]
        if hasattr(descriptor, "values")
        else list(obj.DESCRIPTOR.fields_by_name)
    )
    yield f"   {', '.join(f'`{name}`' for name in members)}"
    yield ""


def _option(option: Any) -> tuple[str, str, str]:
    metavar = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
    default = "" if option.default in (None, False, "", 0) or option.is_flag else str(option.default)
    return f"`{', '.join(option.opts)}{metavar}`", option.help or "", default


def _heading(title: str, underline: str) -> list[str]:
    return ["", title, underline * len(title), ""]


def _block(language: str, lines: Iterable[str]) -> list[str]:
    return [f".. code-block:: {language}", "", *(f"   {line}" for line in lines), ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (header, *rows):
        for place, cell in enumerate(as_rst([text.replace("\n", " ") for text in row])):
            yield f"   {'  -' if place else '* -'} {cell}".rstrip()
    yield ""
