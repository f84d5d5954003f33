"""An emitter that has another name goes on where it was, and one that is no more is named until somebody says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from polku import BufferStrategy, Hub
from polku.batch.batch import Identity
from polku.buffer.buffer import Buffer
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Transaction
from polku.buffer.remembered import StoredAnswer
from polku.buffer.repair import faults
from polku.dead_letters import DeadLetters
from polku.errors import PlanError
from polku.link.link import Link, LocalPeer
from polku.runtime.watch import Watch
from tests.buffer.durable import batch_of, durable
from tests.buffer.journals import opened, positions, row
from tests.buffer.parts import Destination, numbered
from tests.support.examples import examples


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def collect(batch: object) -> None:
    """Take everything."""


NAMES = ("old", "new", "other")
ROWS = st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=8)
CURSORS = st.fixed_dictionaries({name: st.integers(0, 8) for name in NAMES})


@examples(60)
@given(ROWS, CURSORS)
def test_what_waits_for_either_waits_for_the_new_one_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[set[str]], cursors: dict[str, int]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    cursors = {name: min(cursor, len(rows)) for name, cursor in cursors.items()}
    with opened(path, *NAMES) as journal:
        journal.write(Transaction([row(n, *sorted(takers)) for n, takers in enumerate(rows, 1)]))
        journal.write(Transaction((), (), cursors))
        journal.rename("old", "new")
        for name, former in (("new", ("old", "new")), ("other", ("other",))):
            due = [n for n, takers in enumerate(rows, 1) if any(f in takers and n > cursors[f] for f in former)]
            ((cursor,),) = [[c for n, _, c in journal.cursors() if n == name]]
            assert [slot.position for slot in journal.slots(name, cursor, 99, 99)] == due
            assert [journal.read(position).payload for position in due] == [row(p, name).payload for p in due]
        waiting = {n for n, takers in enumerate(rows, 1) for name in takers if n > cursors[name]}
        assert positions(journal) == sorted(waiting)
        journal.write(Transaction((), (), {"new": len(rows), "other": len(rows)}))
        assert positions(journal) == []
        assert "old" not in [name for name, _, _ in journal.cursors()]
    assert list(faults(path)) == []


def test_answers_that_say_how_far_an_outlet_was_say_it_of_the_new_name(path: Path) -> None:
    with opened(path, "old", "other") as journal:
        answer = StoredAnswer(Identity("one", 1, 1), 1, 2, (), ((1, 0), (2, 3)), {"old": 5, "other": 7})
        journal.write(Transaction([row(1, "old"), row(2, "other")], [answer]))
        journal.rename("old", "new")
        assert journal.answers() == [replace(answer, taken={"new": 5, "other": 7})]


def test_a_damaged_batch_stays_damaged(path: Path) -> None:
    with opened(path, "old", "new") as journal:
        journal.write(Transaction([row(1, "old"), row(2, "old")]))
        journal._db.execute("UPDATE batch SET events=9 WHERE position=1")
        journal.rename("old", "new")
        assert len(list(faults(path))) == 1
        assert journal.read(2).payload == row(2, "old").payload


async def run(path: Path, destination: Destination, name: str, formerly: str | None = None) -> None:
    """Deliver what waits, under a name."""
    former = {} if formerly is None else {name: formerly}
    links = {name: Link(name, LocalPeer(destination))}
    buffer = Buffer(BufferStrategy.durable(path), links, DeadLetters(), formerly=former)
    await buffer.open()
    buffer.start()
    await buffer.push(batch_of(f"from {name}"))
    await buffer.drain()
    await buffer.close()


async def test_an_emitter_with_another_name_gets_what_its_former_name_left(path: Path) -> None:
    async with durable(path, {"old": Destination(is_open=False)}) as first:
        for i in numbered(0, 5):
            await first.push(batch_of(i))
    new = Destination()
    await run(path, new, "new", formerly="old")
    assert new.ids == [*numbered(0, 5), "from new"]
    again = Destination()
    await run(path, again, "new", formerly="old")
    assert again.ids == ["from new"], "once it is done it stays done"


async def test_it_is_not_too_late_when_the_new_name_has_run_without_saying_so(path: Path) -> None:
    async with durable(path, {"old": Destination(is_open=False)}) as first:
        for i in numbered(0, 5):
            await first.push(batch_of(i))
    new = Destination()
    await run(path, new, "new")
    assert new.ids == ["from new"]
    await run(path, new, "new", formerly="old")
    assert new.ids == ["from new", *numbered(0, 5), "from new"]


async def test_health_names_what_no_emitter_gets_its_events_and_their_age(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    destinations = {"old": Destination(is_open=False), "empty": Destination(), "new": Destination()}
    async with durable(path, destinations) as first:
        assert first.buffer.statistics().orphans == {}
        for i in numbered(0, 5):
            await first.push(batch_of(i, to=("old",)))
    with caplog.at_level(logging.WARNING):
        async with durable(path, {"new": Destination()}) as second:
            statistics = second.buffer.statistics()
    assert list(statistics.orphans) == ["old"]
    watch = Watch()
    watch.add_buffer(statistics)
    health = watch.health(0)
    assert not health.healthy
    well, text = health.components["emitter:old"]
    assert not well
    assert text.startswith("there is no such emitter, and 5 events wait for it in the journal (age 0:0")
    assert f"`polku journal repair {path} --forget old`" in text
    assert "emitter 'old': there is no such emitter" in caplog.text
    journal = Journal(path)
    journal.forget("old")
    journal.close()
    async with durable(path, {"new": Destination()}) as third:
        assert third.buffer.statistics().orphans == {}


@pytest.mark.parametrize(
    ("former", "reason"),
    [
        (("b", None), "formerly='b' is the name of an emitter that there is"),
        (("a", None), "formerly='a' is the name of an emitter that there is"),
        (("x", "x"), "formerly='x' was 'a' too"),
        (("", None), "formerly='' must be the name that the emitter had"),
    ],
)
def test_a_former_name_is_nobody_elses(former: tuple[str, str | None], reason: str) -> None:
    def plan() -> None:
        a, b = former
        Hub().emitter(collect, name="a", formerly=a).emitter(collect, name="b", formerly=b).plan("inline")

    with pytest.raises(PlanError, match=reason):
        plan()


def test_what_an_inline_pipeline_left_goes_to_the_new_name(path: Path) -> None:
    from polku import new_event

    got: list[str] = []

    def refuse(batch: object) -> None:
        raise ConnectionError("not today")

    def take(batch: object) -> None:
        got.extend(batch.ids)  # type: ignore[attr-defined]

    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(path))
    with hub.emitter(refuse, name="old").start() as pipeline:
        pipeline.sender().send(new_event("x", source="s", id="left"))
        pipeline.stop(0.1)
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(path))
    with hub.emitter(take, name="new", formerly="old").start() as pipeline:
        assert pipeline.health().healthy
    assert got == ["left"]
