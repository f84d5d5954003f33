"""`polku plugin check` and `polku plugin new`: for those who write plugins."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from polku.cli.command import App, Argument, Exit, Option
from polku.cli.credentials import NOTHING, Shown
from polku.cli.terminal import has_rich
from polku.errors import SettingError

if TYPE_CHECKING:
    from polku.testing import Report

app = App("Check a running plugin, or begin a new one.")


class Kind(StrEnum):
    """What a plugin is."""

    INGESTOR = "ingestor"
    EMITTER = "emitter"


class Language(StrEnum):
    """What a new plugin is written in."""

    PYTHON = "python"
    GO = "go"


@app.command()
def check(
    address: Annotated[str, Argument(help="http://host:port, https://host:port, host:port or unix:/path.")],
    sample: Annotated[str | None, Option(metavar="FILE", help="Input that the ingestor can read.")] = None,
    form: Annotated[str, Option("--format", help="The sample's format, as a client would name it.")] = "",
    timeout: Annotated[float, Option(help="Seconds that one call may take.")] = 5.0,
    shutdown: Annotated[bool, Option(help="Call an emitter's Shutdown at the end.")] = True,
    shown: Shown = NOTHING,
    token: Annotated[str | None, Option(help="Sent as `authorization: Bearer`.", envvar="POLKU_TOKEN")] = None,
) -> None:
    """Call a running plugin as the router would; exit status 1 if anything fails.

    An emitter delivers what it gets: some hundred events of type `polku.check`, ten of them large.
    """
    from polku.security.client_tls import Certificate
    from polku.testing import check_plugin

    shown.files()
    report = check_plugin(
        address,
        sample=_read("--sample", sample),
        form=form,
        timeout=timeout,
        shutdown=shutdown,
        root_certificates=_read("--root-certificates", shown.root_certificates),
        certificate=Certificate(shown.certificate, shown.key) if shown.certificate and shown.key else None,
        token=token or shown.token("POLKU_TOKEN"),
    )
    _show(report)
    if not report.ok:
        raise Exit(1)


@app.command()
def new(
    kind: Annotated[Kind, Argument(help="What it is.")],
    folder: Annotated[str, Argument(metavar="DIR", help="Where to write it; must be empty or not exist.")],
    lang: Annotated[Language, Option(help="What it is written in.")] = Language.PYTHON,
) -> None:
    """Write a plugin that works, keeps the contract, and is yours to change."""
    from polku.cli.plugin_project import write_project

    try:
        files = write_project(Path(folder), str(kind), str(lang))
    except FileExistsError:
        raise SettingError("DIR", folder, "is not empty; name a folder that is, or a new one") from None
    except OSError as error:
        raise SettingError("DIR", folder, f"cannot be written: {error.strerror}") from None
    for file in files:
        print(Path(folder) / file)


def _read(option: str, file: str | None) -> bytes | None:
    if file is None:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SettingError(option, file, f"cannot be read: {error.strerror}") from None


def _show(report: Report) -> None:
    if not sys.stdout.isatty() or not has_rich():
        print(report)
        return
    from rich.console import Console
    from rich.table import Table

    colors = {"holds": "green", "note": "yellow", "fails": "red"}
    table = Table("check", "", "seen", "fix", title=f"plugin at {report.address}")
    for name, grade, seen, fix in report.findings:
        table.add_row(name, f"[{colors[grade]}]{grade}[/]", seen.replace("[", "\\["), fix.replace("[", "\\["))
    Console().print(table)
