"""Dead letters are on disk with their reason, and go through the pipeline again when somebody asks for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from polku import Batch, BufferStrategy, Code, Event, Failure, Hub, RejectedError, RetryableError
from polku.dead_letters.store import DeadLetterStore, Letter, Selection
from tests.behaviour.conftest import Start, on_ray_when_slow
from tests.support.recorder import Recorder
from tests.support.server import polku


class Picky:
    """Refuse, while a file says so, the events that it names."""

    name = "picky"

    def __init__(self, folder: Path) -> None:
        self._recorder = Recorder(folder / "out")
        self._refused = folder / "refused"

    async def emit(self, batch: Batch) -> list[Failure]:
        refused = self._refused.read_text().split() if self._refused.exists() else []
        bad = [event_id for event_id in batch.ids if event_id in refused]
        good = Batch.from_events([event for event in batch.events if event.id not in bad])
        if len(good):
            await self._recorder.emit(good)
        return [Failure(event_id, "too odd for me", retryable=False) for event_id in bad]


def letters(path: Path) -> list[Letter]:
    return list(DeadLetterStore(path, create=False).select(Selection()))


def wait_for(condition: Any, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def events(*ids: str) -> list[Event]:
    return [Event(id=event_id, event_type="t", source="test") for event_id in ids]


def test_what_a_destination_refuses_is_stored_and_replayed_to_it_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "refused").write_text("b d")
    other = Recorder(tmp_path / "other", name="other")
    path = tmp_path / "dead.db"
    pipeline = start(Hub().emitter(Picky(tmp_path)).emitter(other).dead_letters(path))
    assert pipeline.sender().send(events("a", "b", "c", "d")).ok
    wait_for(lambda: path.exists() and len(letters(path)) == 2)
    found = letters(path)
    assert {(x.event_id, x.emitter, x.code, x.reason, x.attempts) for x in found} == {
        (event_id, "picky", Code.UNDELIVERED, "too odd for me", 1) for event_id in "bd"
    }
    assert {letter.event.id for letter in pipeline.dead_letters()} == {"b", "d"}

    (tmp_path / "refused").write_text("d")
    done = polku("dlq", "replay", str(path), "--emitter", "picky")
    assert (done.returncode, done.stdout) == (0, "2 dead letters will be replayed\n")
    wait_for(lambda: [x.event_id for x in letters(path) if not x.replay] == ["d"])
    delivered = Recorder(tmp_path / "out")
    wait_for(lambda: {event.id for event in delivered.events()} == {"a", "b", "c"})
    assert [event.id for event in other.events()] == ["a", "b", "c", "d"]  # it had them: nothing came a second time


@on_ray_when_slow
def test_an_event_on_which_an_emitter_s_code_fails_is_alone_and_has_the_traceback(start: Start, tmp_path: Path) -> None:
    recorder, path = Recorder(tmp_path / "out"), tmp_path / "dead.db"

    async def ledger(batch: Batch) -> object:
        if "odd" in batch.ids:
            return "nope"
        if "bad" in batch.ids:
            raise KeyError("amount")
        await recorder.emit(batch)
        return None

    pipeline = start(Hub().emitter(ledger).dead_letters(path))
    assert pipeline.sender().send(events("a", "b", "odd", "c", "bad", "d")).ok
    wait_for(lambda: path.exists() and len(letters(path)) == 2)
    details = {letter.event_id: letter.detail for letter in letters(path)}
    assert set(details) == {"odd", "bad"}
    assert 'raise KeyError("amount")' in details["bad"]
    assert 'test_dead_letters.py", line' in details["bad"]
    assert [event.id for event in recorder.wait_for(4)] == ["a", "b", "c", "d"]


@on_ray_when_slow
def test_what_user_code_fails_on_is_stored_with_its_traceback_and_goes_through_all_of_it_again(
    start: Start, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"

    def fragile(event: Event) -> None:
        if event.id == "b" and not mended.exists():
            raise ValueError("not this one")
        event.metadata["seen"] = "true"

    recorder, path = Recorder(tmp_path / "out"), tmp_path / "dead.db"
    pipeline = start(Hub().middleware(fragile).emitter(recorder).dead_letters(path))
    receipt = pipeline.sender().send(events("a", "b", "c"))
    assert [refusal.event_id for refusal in receipt.refused] == ["b"]
    wait_for(lambda: path.exists() and len(letters(path)) == 1)
    (letter,) = letters(path)
    assert (letter.event_id, letter.emitter, letter.code) == ("b", "", Code.MIDDLEWARE_ERROR)
    assert "ValueError: not this one" in letter.detail
    mended.touch()
    assert polku("dlq", "replay", str(path), str(letter.id), "--wait").stdout == "1 dead letter was replayed\n"
    wait_for(lambda: not letters(path))
    wait_for(lambda: [event.id for event in recorder.events()] == ["a", "c", "b"])
    assert all(event.metadata["seen"] == "true" for event in recorder.events())


@on_ray_when_slow
def test_a_replay_that_is_asked_for_while_nothing_runs_happens_at_the_next_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "refused").write_text("a")
    path = tmp_path / "dead.db"
    first = start(Hub().emitter(Picky(tmp_path)).dead_letters(path))
    first.sender().send(events("a"))
    wait_for(lambda: path.exists() and len(letters(path)) == 1)
    assert first.stop(30).emitters["picky"].dead == 1
    (tmp_path / "refused").unlink()
    assert polku("dlq", "replay", str(path), "--all").returncode == 0
    start(Hub().emitter(Picky(tmp_path)).dead_letters(path))
    wait_for(lambda: not letters(path) and [event.id for event in Recorder(tmp_path / "out").events()] == ["a"])


def test_a_letter_whose_replay_is_on_its_way_when_the_pipeline_stops_is_not_lost(tmp_path: Path) -> None:
    path, modes = tmp_path / "letters.dead", ["refuse"]

    def deliver(batch: Batch) -> None:
        raise RejectedError("never") if modes[-1] == "refuse" else RetryableError("it is down")

    pipeline = Hub(runtime="inline").dead_letters(path).emitter(deliver, name="out").start()
    pipeline.sender().send(events("a"))
    wait_for(lambda: path.exists() and [letter.event_id for letter in letters(path)] == ["a"])
    modes.append("hold")
    assert DeadLetterStore(path, create=False).mark(Selection()) == 1
    wait_for(lambda: (buffer := pipeline.statistics().lanes[0].buffer) and buffer.outlets["out"].in_flight == 1)
    pipeline.sender().send(events("b"))
    report = pipeline.stop(0.2)
    assert (report.emitters["out"].left, report.lost) == (1, {"out": 1})
    assert [letter.event_id for letter in letters(path)] == ["a"]


def test_a_full_store_forgets_the_oldest_and_health_says_so(tmp_path: Path) -> None:
    (tmp_path / "refused").write_text(" ".join(f"e{n}" for n in range(20)))
    path = tmp_path / "dead.db"
    with Hub(runtime="inline").emitter(Picky(tmp_path)).dead_letters(path, max_events=5).start() as pipeline:
        for n in range(20):
            pipeline.sender().send(events(f"e{n}"))
        wait_for(lambda: not pipeline.health().healthy)
        wait_for(lambda: path.exists() and letters(path)[0].event_id == "e19")
        healthy, text = pipeline.health().components["dead_letters"]
    assert not healthy
    assert "15 older ones were forgotten" in text
    assert [letter.event_id for letter in letters(path)] == [f"e{n}" for n in range(19, 14, -1)]


@pytest.mark.parametrize("arguments", [["replay"], ["drop"]])
def test_the_command_line_says_what_is_missing(arguments: list[str], tmp_path: Path) -> None:
    store = DeadLetterStore(tmp_path / "dead.db")
    store.close()
    nothing = polku("dlq", *arguments, str(tmp_path / "dead.db"))
    assert (nothing.returncode, "say which letters" in nothing.stderr) == (2, True)
    wrong = polku("dlq", *arguments, str(tmp_path / "dead.db"), "7")
    assert (wrong.returncode, "has no such letter" in wrong.stderr) == (2, True)
    absent = polku("dlq", *arguments, str(tmp_path / "none.db"), "--all")
    told = f"polku: dead letters {tmp_path / 'none.db'}: there is no such file\n"
    assert (absent.returncode, absent.stderr) == (2, told)


def test_letters_are_listed_shown_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "dead.db"
    store = DeadLetterStore(path)
    event = Event(id="x", event_type="t", source="s", payload=b"..")
    letter = Letter(0, "x", "sink", "UNDELIVERED", "why", "trace", 2, 1, 2, "t", "s", 0, event.SerializeToString())
    store.add([letter, letter._replace(event_id="y", emitter="")])
    store.add([letter._replace(reason="again", last_ns=9)])
    listed = polku("dlq", "list", str(path), "--emitter", "sink")
    assert "sink UNDELIVERED ×4 x: again" in listed.stdout
    assert "1 of 2 dead letters" in listed.stderr
    shown = polku("dlq", "show", str(path), "1")
    assert '"detail": "trace"' in shown.stdout
    for arguments in (["list"], ["replay"], ["drop"]):
        wrong = polku("dlq", *arguments, str(path), "--emitter", "nobody")
        assert (wrong.returncode, "--emitter='nobody'" in wrong.stderr) == (2, True), wrong.stderr
        assert "there are letters with '', 'sink'" in wrong.stderr
    assert polku("dlq", "drop", str(path), "--code", "POISON").returncode == 2
    assert polku("dlq", "drop", str(path), "--all").stdout == "2 dead letters removed\n"
    assert store.counters()["letters"] == store.counters()["bytes"] == 0
    store.close()


def test_who_names_a_journal_is_told_where_its_letters_are(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    (tmp_path / "refused").write_text("a")
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(str(journal))).emitter(Picky(tmp_path))
    with hub.start() as pipeline:
        pipeline.sender().send(events("a"))
        wait_for(lambda: len(pipeline.dead_letters()) == 1)
    wrong = polku("dlq", "list", str(journal))
    assert wrong.returncode == 2
    assert f"is no file of dead letters; those of a journal are beside it, in {journal}.dead" in wrong.stderr
    assert "1 of 1 dead letter," in polku("dlq", "list", f"{journal}.dead").stderr


def test_the_list_says_what_was_forgotten_of_which_kind(tmp_path: Path) -> None:
    store = DeadLetterStore(tmp_path / "dead.db", max_events=2)
    event = Event(id="x").SerializeToString()
    letter = Letter(0, "x", "sink", "UNDELIVERED", "why", "", 1, 1, 2, "t", "s", 0, event)
    store.add([letter._replace(event_id=f"x{n}") for n in range(5)])
    store.close()
    listed = polku("dlq", "list", str(tmp_path / "dead.db"))
    assert "2 of 2 dead letters" in listed.stderr
    assert "3 forgotten for want of room (sink UNDELIVERED 3)" in listed.stderr


def test_what_clients_chose_as_ids_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    store = DeadLetterStore(tmp_path / "dead.db")
    event = Event(id="x").SerializeToString()
    store.add([Letter(0, "x\n\x1b[2J", "sink", "UNDELIVERED", "why", "", 1, 1, 2, "t", "s", 0, event)])
    store.close()
    assert "UNDELIVERED ×1 x\\n\\x1b[2J: why\n" in polku("dlq", "list", str(tmp_path / "dead.db")).stdout
