"""Dead letters in memory: the latest of each kind, all of them counted."""

from __future__ import annotations

import asyncio

import pytest

from polku import Batch, Code, Event
from polku.batch.receipt import Refusal
from polku.dead_letters import DeadLetters


def bury(letters: DeadLetters, emitter: str, code: Code, *ids: str) -> None:
    batch = Batch.from_events([Event(id=event_id) for event_id in ids])
    letters.bury(emitter, batch, [Refusal(event_id, code, "why") for event_id in ids])


def test_a_flood_of_one_kind_leaves_the_letters_of_others() -> None:
    letters = DeadLetters(10)
    bury(letters, "ledger", Code.UNDELIVERED, "a", "b")
    for n in range(50):
        bury(letters, "", Code.UNROUTABLE, f"n{n}")
    assert [letter.event.id for letter in letters.latest()] == ["a", "b", *(f"n{n}" for n in range(42, 50))]
    statistics = letters.statistics()
    assert (statistics.total, statistics.kept, statistics.forgotten) == (52, 10, 42)
    assert statistics.forgotten_by == {("", Code.UNROUTABLE): 42}
    assert statistics.reasons == {("ledger", Code.UNDELIVERED): "why", ("", Code.UNROUTABLE): "why"}


def test_a_traceback_in_the_log_ends_with_its_last_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="polku.dead_letters.memory"):
        batch = Batch.from_events([Event(id="traced")])
        refusal = Refusal("traced", Code.UNDELIVERED, "it raises", detail="Traceback\n  here\n")
        DeadLetters().bury("partner", batch, [refusal])
    assert caplog.records[-1].getMessage() == "Traceback\n  here"


def test_ids_that_clients_chose_cannot_forge_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    letters = DeadLetters()
    bury(letters, "forged", Code.UNDELIVERED, "x\n2026-01-01 ERROR all is lost\x1b[2J")
    (record,) = caplog.records
    assert record.getMessage() == (
        "dead letter for forged: event x\\n2026-01-01 ERROR all is lost\\x1b[2J: UNDELIVERED: why; see `polku dlq list`"
    )


def test_large_events_are_kept_up_to_a_number_of_bytes() -> None:
    letters = DeadLetters(max_bytes=1_000_000)
    for n in range(40):
        batch = Batch.from_events([Event(id=f"n{n}", payload=bytes(100_000))])
        letters.bury("", batch, [Refusal(f"n{n}", Code.UNROUTABLE, "why", position=0)])
    assert [letter.event.id for letter in letters.latest()] == [f"n{n}" for n in range(31, 40)]
    statistics = letters.statistics()
    assert (statistics.total, statistics.kept, statistics.forgotten) == (40, 9, 31)


def test_large_events_of_one_kind_push_out_none_of_another() -> None:
    letters = DeadLetters(max_bytes=1_000_000)
    bury(letters, "ledger", Code.UNDELIVERED, "a")
    for n in range(20):
        batch = Batch.from_events([Event(id=f"n{n}", payload=bytes(400_000))])
        letters.bury("", batch, [Refusal(f"n{n}", Code.UNROUTABLE, "why", position=0)])
    assert [letter.event.id for letter in letters.latest()] == ["a", "n18", "n19"]


def test_a_flood_of_one_principal_leaves_the_letters_of_others() -> None:
    letters = DeadLetters(32)

    def bury_of(principal: str, name: str) -> None:
        event = Event(id=name, metadata={"polku.principal": principal})
        letters.bury("", Batch.from_events([event]), [Refusal(name, Code.UNROUTABLE, "why", position=0)])

    for n in range(5):
        bury_of("quiet", f"mine-{n}")
    for n in range(200):
        bury_of("loud", f"n{n}")
    assert [letter.event.id for letter in letters.latest()] == [
        *(f"mine-{n}" for n in range(5)),
        *(f"n{n}" for n in range(173, 200)),
    ]
    assert letters.statistics().forgotten_by == {("", Code.UNROUTABLE): 173}


async def test_very_many_are_kept_in_slices_and_forgotten_like_few() -> None:
    letters = DeadLetters(1_000)
    events = [Event(id=f"n{n}") for n in range(5_000)]
    refused = [Refusal(event.id, Code.UNROUTABLE, "why", position=at) for at, event in enumerate(events)]
    kept = letters.bury("", Batch.from_events(events), refused)
    assert kept is not None
    await asyncio.sleep(0)
    assert 0 < letters.statistics().total < 5_000
    await kept
    assert [letter.event.id for letter in letters.latest()] == [f"n{n}" for n in range(4_000, 5_000)]
    assert (letters.statistics().total, letters.statistics().forgotten) == (5_000, 4_000)


async def test_what_is_not_kept_yet_is_kept_before_the_end() -> None:
    letters = DeadLetters()
    events = [Event(id=f"n{n}") for n in range(500)]
    letters.bury("", Batch.from_events(events), [Refusal(e.id, Code.UNROUTABLE, "why") for e in events])
    await letters.close()
    assert letters.statistics().total == 500
