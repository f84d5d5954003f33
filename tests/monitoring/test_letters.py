"""Dead letters of a running pipeline over its admin address: listed, shown, replayed and dropped by `polku dlq`."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polku import Batch, Event, Failure, Hub, Pipeline, StdoutEmitter, new_event
from polku.monitoring.problems import Letters, find_letters
from tests.monitoring.test_admin import get
from tests.support.server import polku_here


class Partner:
    """A destination that refuses orders until a file says that it is repaired, and writes down what it took."""

    name = "partner"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def emit(self, batch: Batch) -> list[Failure]:
        if not (self._folder / "repaired").exists():
            return [Failure(event.id, "unknown \x1b[2J order", retryable=False) for event in batch]
        with (self._folder / "taken").open("a") as file:
            file.writelines(f"{event.id}\n" for event in batch)
        return []


def wait_for(is_so: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.05)


def dead(pipeline: Pipeline, *ids: str) -> None:
    """Send events of these ids, which become dead letters."""
    pipeline.sender().send([new_event("order", id=id, source="shop", metadata={"token": "s3cret"}) for id in ids])
    wait_for(lambda: len(pipeline.dead_letters()) == len(ids))


def shown_of(pipeline: Pipeline) -> Letters:
    """Return what the live page shows of them, once the statistics have seen them."""
    address = str(pipeline.admin_address)
    wait_for(lambda: bool(find_letters(pipeline.statistics(), address)))
    (letters,) = find_letters(pipeline.statistics(), address)
    return letters


def dlq(pipeline: Pipeline, *arguments: str, status: int = 0) -> str:
    done = polku_here("dlq", arguments[0], "--to", str(pipeline.admin_address), *arguments[1:])
    assert done.returncode == status, done.stderr
    return done.stdout if not status else done.stderr


@pytest.mark.parametrize("runtime", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_letters_are_seen_replayed_and_dropped(runtime: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if runtime == "ray":
        request.getfixturevalue("ray_session")
    hub = Hub(name=f"shop-{runtime}").redact("token").dead_letters(str(tmp_path / "dead.db")).emitter(Partner(tmp_path))
    with hub.start(runtime=runtime, admin_addr="127.0.0.1:0") as pipeline:
        dead(pipeline, "a", "b", "c")
        lines = dlq(pipeline, "list", "--code", "UNDELIVERED", "--since", "1000").splitlines()
        assert sorted(line.split(" ", 1)[1] for line in lines) == [
            rf"partner UNDELIVERED ×1 {id}: unknown \x1b[2J order" for id in "abc"
        ]
        assert dlq(pipeline, "list", "--emitter", "other") == ""
        assert len(dlq(pipeline, "list", "--limit", "2", "--json").splitlines()) == 2
        shown = json.loads(dlq(pipeline, "show", "b"))
        assert (shown["code"], shown["event"]["metadata"]) == ("UNDELIVERED", {"token": "[redacted]"})
        assert shown["detail"] == ""  # the destination said nothing more
        (tmp_path / "repaired").touch()
        assert dlq(pipeline, "replay", "b", "--wait") == "1 dead letter was replayed\n"
        wait_for(lambda: (tmp_path / "taken").read_text() == "b\n")
        assert dlq(pipeline, "drop", "c", "--emitter", "partner") == "1 dead letter removed\n"
        letters = shown_of(pipeline)
        done = polku_here(*shlex.split(letters.replay)[1:])
        assert (done.returncode, done.stdout) == (0, "1 dead letter will be replayed\n")
        wait_for(lambda: not pipeline.dead_letters())
        wait_for(lambda: (tmp_path / "taken").read_text() == "b\na\n")


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_letter_is_found_behind_a_thousand_of_another_emitter(on_disk: bool, tmp_path: Path) -> None:
    def refuse(batch: Batch) -> list[Failure]:
        return [Failure(event.id, "no", retryable=False) for event in batch]

    hub = Hub(name="shop-many", runtime="inline").emitter(refuse, name="partner").emitter(refuse, name="ledger")
    if on_disk:
        hub.dead_letters(str(tmp_path / "dead.db"))
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        sender = pipeline.sender()
        sender.send(Event(id="old", event_type="order", source="shop", route_to=["partner"]))
        wait_for(lambda: len(pipeline.dead_letters()) == 1)
        sender.send([Event(id=f"{n}", event_type="order", source="shop", route_to=["ledger"]) for n in range(1_001)])
        wait_for(lambda: len(pipeline.dead_letters()) == 1_000)  # the latest of them
        wait_for(lambda: not pipeline.statistics().lanes[0].buffer.outlets["ledger"].waiting)  # type: ignore[union-attr]
        assert dlq(pipeline, "list", "--emitter", "partner").split()[-2:] == ["old:", "no"]
        assert dlq(pipeline, "list", "--emitter", "partner", "--code", "POISON") == ""
        assert len(dlq(pipeline, "list", "--emitter", "ledger", "--limit", "3", "--json").splitlines()) == 3


@pytest.mark.parametrize("payload", [False, True])
def test_the_traceback_is_shown_unless_payloads_are_not_to_be_seen(payload: bool) -> None:
    def crash(event: Event) -> None:
        raise ValueError(f"odd {event.payload!r}")

    hub = Hub(runtime="inline").redact(payload=payload).middleware(crash).emitter(StdoutEmitter())
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        dead(pipeline, "a")
        (letter,) = pipeline.dead_letters()
        shown = json.loads(dlq(pipeline, "show", "a"))
        listed = json.loads(dlq(pipeline, "list", "--json"))
    assert "raise ValueError" in letter.detail
    assert shown.get("detail") == (None if payload else letter.detail)
    assert "detail" not in listed


def test_what_is_in_memory_is_seen_and_what_cannot_be_is_said(tmp_path: Path) -> None:
    with Hub(runtime="inline").emitter(Partner(tmp_path)).start(admin_addr="127.0.0.1:0") as pipeline:
        dead(pipeline, "a")
        letters = shown_of(pipeline)
        assert letters.replay == ""
        assert "a: unknown" in polku_here(*shlex.split(letters.look)[1:]).stdout
        assert "dead_letters(PATH) keeps them" in dlq(pipeline, "replay", "--all", status=1)
        assert "say which letters" in dlq(pipeline, "drop", status=2)
        assert "no dead letter is of this event" in dlq(pipeline, "show", "x", status=2)
        assert get(pipeline.admin_address, "/dead-letters/replay?all=1")[0] == 401  # who has no key
        wrong = polku_here("dlq", "show", str(tmp_path / "dead.db"), "a")
        assert "in a file letters have numbers" in wrong.stderr
