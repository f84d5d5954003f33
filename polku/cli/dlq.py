"""`polku dlq`: look at dead letters, send them through the pipeline again, or remove them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from polku.cli.command import App, Argument, Option
from polku.errors import JournalError, SettingError
from polku.log_format import say
from polku.progress import Progress
from polku.text import line

if TYPE_CHECKING:
    from polku.dead_letters.store import DeadLetterStore, Letter, Selection

_LOOK_SECONDS = 0.25
app = App("List, show, replay and drop dead letters.")

Target = Annotated[Path, Argument(metavar="PATH", help="The file of dead letters (beside a journal: PATH.dead).")]
Ids = Annotated[list[int] | None, Argument(metavar="[ID]...", help="The letters' numbers.")]
Emitter = Annotated[str | None, Option(help="Only those of this emitter; '' for those that got to none.")]
ByCode = Annotated[str | None, Option("--code", help="Only those with this code.")]
Since = Annotated[float, Option(metavar="SECONDS", help="Only those of the last SECONDS; 0 for all.")]
Everything = Annotated[bool, Option("--all", help="Every letter that the other options leave.")]


@app.command("list")
def list_letters(
    path: Target,
    emitter: Emitter = None,
    code: ByCode = None,
    since: Since = 0.0,
    limit: Annotated[int, Option(help="How many at most; the latest come first.")] = 50,
    as_json: Annotated[bool, Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """List dead letters, the latest first."""
    store = _open(path)
    letters = list(store.select(_selection(store, (), emitter, code, since), limit))
    if as_json:
        for letter in letters:
            print(json.dumps(_describe(letter)))
        return
    counters = store.counters()
    for letter in letters:
        replay = " (to be replayed)" if letter.replay else ""
        where = line(letter.emitter) or "-"
        said = f"{line(letter.event_id)}: {line(letter.reason)}"
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(letter.last_ns // 1_000_000_000))
        print(f"{letter.id:>8} {when} {where} {line(letter.code)} ×{letter.attempts} {said}{replay}")
    say(f"{len(letters)} of {counters['letters']} dead letters, {counters['bytes']} bytes{_forgotten(store)}")


@app.command()
def show(path: Target, letter_id: Annotated[int, Argument(metavar="ID")]) -> None:
    """Show one dead letter as JSON: its event, the reason, and the traceback where there is one."""
    from google.protobuf.json_format import MessageToDict

    from polku.dead_letters.store import Selection, as_event

    letter = next(iter(_open(path).select(Selection((letter_id,)))), None)
    if letter is None:
        raise SettingError("ID", letter_id, f"there is no such letter in {path}; see `polku dlq list {path}`")
    event = MessageToDict(as_event(letter), preserving_proto_field_name=True)
    print(json.dumps({**_describe(letter), "detail": letter.detail, "event": event}, indent=2))


@app.command()
def replay(
    path: Target,
    ids: Ids = None,
    emitter: Emitter = None,
    code: ByCode = None,
    since: Since = 0.0,
    everything: Everything = False,
    wait: Annotated[
        bool, Option("--wait", help="Return when the pipeline has taken them all; shows how far it is.")
    ] = False,
) -> None:
    """Have the pipeline deliver letters again: through their emitter's outlet, or, from none, through all of it.

    A running pipeline begins within a second, another one when it is started.
    """
    store = _open(path)
    count = store.mark(_chosen(store, ids, emitter, code, since, everything))
    if not wait:
        print(f"{count} dead letters will be replayed")
        return
    with Progress("replaying", count) as bar:
        while left := sum(store.waiting().values()):
            bar.move(max(0, count - left), count)
            time.sleep(_LOOK_SECONDS)
    print(f"{count} dead letters were replayed")


@app.command()
def drop(
    path: Target,
    ids: Ids = None,
    emitter: Emitter = None,
    code: ByCode = None,
    since: Since = 0.0,
    everything: Everything = False,
) -> None:
    """Remove letters."""
    store = _open(path)
    count = store.drop(_chosen(store, ids, emitter, code, since, everything))
    print(f"{count} dead letters have gone")


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
        raise JournalError(
            store.path, f"there is no letter {', '.join(map(str, sorted(missing)))} (with these options)"
        )
    return selection


def _describe(letter: Letter) -> dict[str, Any]:
    return {name: value for name, value in letter._asdict().items() if name not in ("event", "detail")}
