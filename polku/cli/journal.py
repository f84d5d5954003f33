"""`polku journal`: look at the journal of a durable buffer, check it, mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from msgspec.structs import asdict

from polku.cli.command import App, Argument, Exit, Option
from polku.errors import JournalCorruptError, JournalError
from polku.log_format import say
from polku.text import counted

app = App("Look at, check and mend the journal of a durable buffer.")

Target = Annotated[Path, Argument(metavar="PATH", help="The journal's file.")]


@app.command()
def stat(path: Target, as_json: Annotated[bool, Option("--json", help="For programs.")] = False) -> None:
    """Show what a journal holds and how far each emitter is; also while a pipeline has it open."""
    try:
        shown = _describe(path)
    except JournalCorruptError as error:
        raise JournalError(path, f"{error.reason}; see `polku journal verify {path}`") from None
    if as_json:
        print(json.dumps(shown))
        return
    _print(shown)


@app.command()
def verify(path: Target) -> None:
    """Read everything; name each fault, and end with status 1 if there is one."""
    from polku.buffer.repair import faults
    from polku.progress import Progress

    with Progress("reading batches") as bar:
        found = list(faults(path, bar.move))
    for fault in found:
        print(fault)
    count = len(found)
    if count:
        say(f"journal {path}: {count} faults; `polku journal repair {path}` keeps what can be read")
        raise Exit(1)
    print("ok")


@app.command()
def repair(
    path: Target,
    forget: Annotated[
        list[str] | None, Option(metavar="NAME", help="Release an emitter that is no more; repeatable.")
    ] = None,
) -> None:
    """Rewrite a damaged journal from what can be read of it, or, with --forget, only release emitters."""
    from polku.buffer.repair import mend
    from polku.progress import Progress

    if forget:
        for name, events in _forget(path, forget).items():
            waited = f"{counted(events, 'event')} that waited for it alone"
            print(f"journal {path}: {name!r} is forgotten; removed {waited}")
        return
    with Progress("reading batches") as bar:
        salvage = mend(path, bar.move)
    print(salvage or f"journal {path}: no faults; it was left as it is")


@app.command()
def rename(
    path: Target,
    old: Annotated[str, Argument(metavar="OLD", help="The name that the emitter had.")],
    new: Annotated[str, Argument(metavar="NEW", help="The name that it has now.")],
) -> None:
    """Give all that waits for one emitter to another, as `hub.emitter(..., formerly=OLD)` does at the next start."""
    from polku.buffer.journal import Journal

    if not path.exists():
        raise JournalError(path, "there is no such file")
    journal = Journal(path)
    try:
        states = {state.name: state for state in journal.outlets()}
        if old not in states or not new or new == old:
            known = ", ".join(states) or "none"
            raise JournalError(path, f"rename {old!r} {new!r}: name an emitter that it has ({known}), and another one")
        journal.rename(old, new)
        count = states[old].events
        now = "waits" if count == 1 else "wait"
        print(f"journal {path}: {counted(count, 'event')} that waited for {old!r} {now} for {new!r} now")
    finally:
        journal.close()


def _describe(path: Path) -> dict[str, Any]:
    from polku.buffer.journal_reader import JournalReader
    from polku.buffer.lock import holder

    journal = JournalReader(path)
    try:
        statistics = journal.statistics()
    finally:
        journal.close()
    outlets = [asdict(outlet) for outlet in statistics.outlets]
    return {"path": str(path), "pid": holder(path), **statistics._asdict(), "outlets": outlets}


def _print(shown: dict[str, Any]) -> None:
    from polku.buffer.positions import OutletState, age_of, describe_orphan

    owner = f"open in process {shown['pid']}" if shown["pid"] else "not open"
    print(f"journal {shown['path']}: {owner}")
    print(f"holds {counted(shown['batches'], 'batch')}, {counted(shown['events'], 'event')}, {shown['bytes']} bytes")
    print(f"files take {shown['file_bytes']} bytes, {shown['free_bytes']} of them free")
    print(f"lost to damage: {shown['lost_batches']} batches")
    table = [("emitter", "cursor", "batches", "events", "bytes", "age")]
    outlets = [OutletState(**outlet) for outlet in shown["outlets"]]
    table += [(o.name, str(o.cursor), str(o.batches), str(o.events), str(o.bytes), age_of(o)) for o in outlets]
    width = max(len(row[0]) for row in table)
    for name, *numbers in table:
        print(name.ljust(width), *(number.rjust(12) for number in numbers))
    for outlet in outlets:
        if outlet.orphaned and outlet.events:
            print(f"emitter {outlet.name!r}: {describe_orphan(outlet, shown['path'])}")


def _forget(path: Path, names: list[str]) -> dict[str, int]:
    from polku.buffer.journal import Journal

    if not path.exists():
        raise JournalError(path, "there is no such file")
    journal = Journal(path)
    try:
        known = [name for name, _, _ in journal.cursors()]
        for name in names:
            if name not in known:
                raise JournalError(path, f"--forget {name!r}: has no such emitter; it has {', '.join(known) or 'none'}")
        return {name: journal.forget(name) for name in names}
    finally:
        journal.close()
