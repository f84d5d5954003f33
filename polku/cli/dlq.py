"""`polku dlq`: look at dead letters, send them through the pipeline again, or remove them."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from polku.cli.admin_client import To, find
from polku.cli.command import App, Argument, Option
from polku.cli.credentials import NOTHING, Credentials, Shown
from polku.cli.letters import RunningLetters
from polku.errors import SettingError
from polku.log_format import say
from polku.progress import Progress
from polku.text import counted, line

if TYPE_CHECKING:
    from polku.dead_letters.store import DeadLetterStore, Letter, Selection

_LOOK_SECONDS = 0.25
app = App("List, show, replay and drop dead letters.")

Target = Annotated[
    str | None,
    Argument(metavar="[PATH]", help="A file of dead letters (beside a journal: PATH.dead); else of what runs."),
]
Words = Annotated[
    list[str] | None,
    Argument(metavar="[PATH] [ID]...", help="A file, and letters' numbers; without a file the ids of events."),
]
Emitter = Annotated[str | None, Option(help="Only those of this emitter; '' for those that got to none.")]
ByCode = Annotated[str | None, Option("--code", help="Only those with this code.")]
Since = Annotated[float, Option(metavar="SECONDS", help="Only those of the last SECONDS; 0 for all.")]
Everything = Annotated[bool, Option("--all", help="Every letter that the other options leave.")]


@app.command("list")
def list_letters(
    path: Target = None,
    to: To = None,
    shown: Shown = NOTHING,
    emitter: Emitter = None,
    code: ByCode = None,
    since: Since = 0.0,
    limit: Annotated[int, Option(help="How many at most; the latest come first.")] = 50,
    as_json: Annotated[bool, Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """List dead letters, the latest first: of a file, or without one of a running pipeline."""
    if to is not None or path is None:
        _list_running(RunningLetters(find(to, shown)), emitter, code, since, limit, as_json=as_json)
        return
    shown.refuse_file(path)
    store = _open(Path(path))
    letters = list(store.select(_selection(store, (), emitter, code, since), limit))
    if as_json:
        for letter in letters:
            print(json.dumps(_describe(letter)))
        return
    counters = store.counters()
    for letter in letters:
        replay = " (to be replayed)" if letter.replay else ""
        said = _line(letter.last_ns, letter.emitter, letter.code, letter.attempts, letter.event_id, letter.reason)
        print(f"{letter.id:>8} {said}{replay}")
    say(
        f"{len(letters)} of {counted(counters['letters'], 'dead letter')}, {counters['bytes']} bytes{_forgotten(store)}"
    )


def _list_running(
    there: RunningLetters, emitter: str | None, code: str | None, since: float, limit: int, *, as_json: bool
) -> None:
    found = there.latest(limit, emitter, code, since)
    for one in found["letters"]:
        if as_json:
            print(json.dumps(one))
        else:
            times = (one["time_unix_ns"], one["emitter"], one["code"], one["attempts"])
            print(_line(*times, one["id"], one["reason"]))
    if not as_json:
        more = f", {found['left_out']} more; --limit shows them" if found["left_out"] else ""
        say(f"{counted(len(found['letters']), 'dead letter')}{more}")


def _line(time_ns: int, emitter: str, code: str, attempts: int, event_id: str, reason: str) -> str:
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ns // 1_000_000_000))
    return f"{when} {line(emitter) or '-'} {line(code)} ×{attempts} {line(event_id)}: {line(reason)}"


@app.command()
def show(words: Words = None, to: To = None, shown: Shown = NOTHING) -> None:
    """Show one dead letter as JSON: its event, the reason, and the traceback where there is one."""
    from google.protobuf.json_format import MessageToDict

    from polku.dead_letters.store import Selection, as_event

    path, ids = _split(words, to, shown)
    if len(ids) != 1:
        raise SettingError("ID", " ".join(ids), "name one letter")
    if path is None:
        for one in RunningLetters(find(to, shown)).show(ids[0]):
            print(json.dumps(one, indent=2))
        return
    (letter_id,) = _numbers(ids)
    letter = next(iter(_open(path).select(Selection((letter_id,)))), None)
    if letter is None:
        raise SettingError("ID", letter_id, f"there is no such letter in {path}; see `polku dlq list {path}`")
    event = MessageToDict(as_event(letter), preserving_proto_field_name=True)
    print(json.dumps({**_describe(letter), "detail": letter.detail, "event": event}, indent=2))


@app.command()
def replay(
    words: Words = None,
    to: To = None,
    shown: Shown = NOTHING,
    emitter: Emitter = None,
    code: ByCode = None,
    since: Since = 0.0,
    everything: Everything = False,
    wait: Annotated[
        bool, Option("--wait", help="Return when the pipeline has taken them all; shows how far it is.")
    ] = False,
) -> None:
    """Have the pipeline deliver letters again: through their emitter's outlet, or, from none, through all of it.

    A running pipeline begins within a second, another one when it is started. Without a file, and with --to, a running
    pipeline is asked, wherever it is; its letters are named by the ids of their events.
    """
    path, ids = _split(words, to, shown)
    if path is None:
        there = RunningLetters(find(to, shown))
        count, left_of = there.change("replay", ids, emitter, code, since, everything), there.waiting
    else:
        store = _open(path)
        count = store.mark(_chosen(store, _numbers(ids), emitter, code, since, everything))
        left_of = partial(_waiting, store)
    if not wait:
        print(f"{counted(count, 'dead letter')} will be replayed")
        return
    with Progress("replaying", count) as bar:
        while left := left_of():
            bar.move(max(0, count - left), count)
            time.sleep(_LOOK_SECONDS)
    print(f"{counted(count, 'dead letter', 'was', 'were')} replayed")


@app.command()
def drop(
    words: Words = None,
    to: To = None,
    shown: Shown = NOTHING,
    emitter: Emitter = None,
    code: ByCode = None,
    since: Since = 0.0,
    everything: Everything = False,
) -> None:
    """Remove letters."""
    path, ids = _split(words, to, shown)
    if path is None:
        count = RunningLetters(find(to, shown)).change("drop", ids, emitter, code, since, everything)
    else:
        store = _open(path)
        count = store.drop(_chosen(store, _numbers(ids), emitter, code, since, everything))
    print(f"{counted(count, 'dead letter')} removed")


def _split(words: list[str] | None, to: str | None, shown: Credentials) -> tuple[Path | None, list[str]]:
    """Return the file, or None where a running pipeline is asked, and which letters are named."""
    words = words or []
    if to is not None or not words:
        return None, words
    shown.refuse_file(words[0])
    return Path(words[0]), words[1:]


def _numbers(ids: list[str]) -> list[int]:
    """Return the numbers of letters in a file; raises `SettingError`."""
    for letter_id in ids:
        if not letter_id.isdecimal():
            raise SettingError("ID", letter_id, "in a file letters have numbers; see `polku dlq list PATH`")
    return [int(letter_id) for letter_id in ids]


def _waiting(store: DeadLetterStore) -> int:
    return sum(store.waiting().values())


def _open(path: Path) -> DeadLetterStore:
    from polku.dead_letters.store import DeadLetterStore

    return DeadLetterStore(path, create=False)


def _forgotten(store: DeadLetterStore) -> str:
    """Say how many letters went for want of room, and of which kinds."""
    from polku.dead_letters.kinds import describe

    total = store.counters()["forgotten"]
    kinds = describe({one.kind: one.forgotten for one in store.kinds() if one.forgotten})
    return f", {total} forgotten for want of room{f' ({kinds})' if kinds else ''}" if total else ""


def _selection(
    store: DeadLetterStore, ids: tuple[int, ...], emitter: str | None, code: str | None, since: float
) -> Selection:
    """Return what the options choose; an emitter or a code that no letter has is a mistake, if there are letters."""
    from polku.dead_letters.store import Selection

    columns: tuple[Literal["emitter", "code"], ...] = ("emitter", "code")
    for column, value in zip(columns, (emitter, code), strict=True):
        known = store.names(column) if value is not None else []
        if known and value not in known:
            fix = f"no letter in {store.path} has it; there are letters with {', '.join(map(repr, known))}"
            raise SettingError(f"--{column}", value, fix)
    return Selection(ids, emitter, code, time.time_ns() - round(since * 1e9) if since else 0)


def _chosen(
    store: DeadLetterStore, ids: list[int] | None, emitter: str | None, code: str | None, since: float, everything: bool
) -> Selection:
    """Return what the options choose; nothing said is a mistake, and so is a letter that is not there."""
    if not (ids or everything or since) and emitter is None and code is None:
        raise SettingError("ID", "", "say which letters: their numbers, --emitter, --code, --since, or --all")
    selection = _selection(store, tuple(ids or ()), emitter, code, since)
    missing = set(ids or ()) - {letter.id for letter in store.select(selection)}
    if missing:
        raise SettingError(
            "ID", ", ".join(map(str, sorted(missing))), f"{store.path} has no such letter (with these options)"
        )
    return selection


def _describe(letter: Letter) -> dict[str, Any]:
    return {name: value for name, value in letter._asdict().items() if name not in ("event", "detail")}
