"""A Deduplicator that is durable knows after a restart what it knew before it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from polku import BufferStrategy, Deduplicator, Hub, PlanError, new_event
from polku.middleware import seen_log
from polku.stage.key_space import KeySpace
from tests.middleware.harness import events, ids, work
from tests.support.clock import FakeClock
from tests.support.recorder import Recorder

NONE: frozenset[int] = frozenset()
HERE = Path(__file__).parent


def started(path: Path, clock: FakeClock, **options: Any) -> Any:
    step: Any = Deduplicator(durable=str(path), **options).build(clock)
    step.start()
    return step


async def settle(step: Any, *event_ids: str, batch: int = 1, refused: frozenset[int] = NONE) -> list[str]:
    """Have a step see and settle events; return the ids that went on."""
    outcome = await work(step, events(*event_ids), batch)
    step.settled(batch, refused)
    return ids(outcome)


async def test_ids_are_known_to_the_next_one_for_their_time(tmp_path: Path) -> None:
    clock = FakeClock()
    step = started(tmp_path / "ids", clock, ttl=10)
    await settle(step, "a", "refused", "ä\n\x00", refused=frozenset({1}))
    step.close()
    clock.advance(6)
    step = started(tmp_path / "ids", clock, ttl=10)
    assert await settle(step, "a", "refused", "ä\n\x00", "b") == ["refused", "b"]
    step.close()
    clock.advance(5)
    step = started(tmp_path / "ids", clock, ttl=10)
    assert await settle(step, "a", "refused", "b") == ["a"]


async def test_a_clock_that_is_set_back_keeps_ids_for_their_time_once_not_after_each_restart(
    tmp_path: Path,
) -> None:
    clock, path = FakeClock(), tmp_path / "ids"
    step = started(path, clock, ttl=10)
    await settle(step, "old")
    clock.advance(6)
    await settle(step, "a")
    clock.set(-7200.0)
    clock.advance(1)
    for _ in range(3):  # nobody knows how long it was before the first of them: at least nothing
        step.close()
        step = started(path, clock, ttl=10)
        clock.advance(3)
    assert await settle(step, "old", "a", "b") == ["old", "b"]  # 15 s and 9 s since then
    clock.advance(2)
    step.close()
    step = started(path, clock, ttl=10)
    assert await settle(step, "a", "b") == ["a"]


async def test_a_clock_that_is_set_back_in_between_changes_no_other_age(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ids"
    step = started(path, clock, ttl=10)
    await settle(step, "a")
    clock.advance(4)
    clock.set(-7200.0)
    await settle(step, "b")
    clock.advance(7)
    step.close()
    step = started(path, clock, ttl=10)
    assert await settle(step, "b") == []
    clock.advance(4)
    assert await settle(step, "a", "b") == ["a", "b"]


async def test_an_id_that_is_open_when_the_process_dies_is_not_known(tmp_path: Path) -> None:
    clock = FakeClock()
    await work(started(tmp_path / "ids", clock), events("a"), 1)
    assert await settle(started(tmp_path / "ids", clock), "a") == ["a"]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_half_of_a_line_is_left_out_and_nothing_else(tmp_path: Path, cut: int) -> None:
    clock, path = FakeClock(), tmp_path / "ids"
    step = started(path, clock)
    await settle(step, "a")
    await settle(step, "b", batch=2)
    step.close()
    path.write_bytes(path.read_bytes()[:-cut])
    step = started(path, clock)
    assert await settle(step, "a", "b", "c") == (["c"] if cut == 1 else ["b", "c"])
    step.close()
    assert await settle(started(path, clock), "a", "b", "c") == []


def size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir())


async def test_files_are_bounded_by_time_and_number(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ids"
    step = started(path, clock, ttl=10, max_ids=100)
    for number in range(200):
        await settle(step, *(f"{number}-{place}" for place in range(10)), batch=number)
    assert sorted(os.listdir(tmp_path)) == ["ids", "ids.1"]
    assert size(tmp_path) < 6_000
    clock.advance(11)
    await settle(step, "late", batch=1_000)
    clock.advance(11)
    await settle(step, "later", batch=1_001)
    assert size(tmp_path) < 200
    step.close()
    assert list(started(path, clock, ttl=10)._seen) == ["later"]


async def test_the_latest_of_many_ids_are_known(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "ids"
    step = started(path, clock, max_ids=25)
    for number in range(100):
        await settle(step, str(number), batch=number)
    step.close()
    assert list(started(path, clock, max_ids=25)._seen) == [str(number) for number in range(75, 100)]


async def test_a_disk_that_is_full_for_a_while_loses_no_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, path = FakeClock(), tmp_path / "ids"
    step = started(path, clock)

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(seen_log, "_write", full)
        assert await settle(step, "a") == ["a"]
        assert await settle(step, "b", batch=2) == ["b"]
    clock.advance(6)
    await settle(step, "c", batch=3)
    step.close()
    assert await settle(started(path, clock), "a", "b", "c", "d") == ["d"]


async def test_what_a_successor_takes_over_is_in_its_file(tmp_path: Path) -> None:
    clock = FakeClock()
    before: Any = Deduplicator().build(clock)
    await settle(before, "a")
    after = started(tmp_path / "ids", clock)
    after.restore(before.snapshot())
    await settle(after, "b", batch=2)
    after.close()
    assert await settle(started(tmp_path / "ids", clock), "a", "b", "c") == ["c"]


async def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text("my notes\n")
    with pytest.raises(PlanError, match=r"holds no ids .it begins .*my notes"):
        started(path, FakeClock())
    assert path.read_text() == "my notes\n"


def test_it_needs_a_journal_and_stands_beside_it(tmp_path: Path) -> None:
    def places(hub: Hub) -> list[object]:
        hub.emitter(lambda batch: None, name="out")
        return [getattr(m.component, "durable", None) for stage in hub.plan("inline").stages for m in stage.middleware]

    with pytest.raises(
        PlanError, match=r"durable=True needs a durable buffer: add .buffer_strategy\(BufferStrategy.durable"
    ):
        places(Hub().middleware(Deduplicator(durable=True)))
    with pytest.raises(PlanError, match="durable=3 must be True, False or the path of a file"):
        Deduplicator(durable=3)  # type: ignore[arg-type]
    journal = tmp_path / "journal"
    hub = Hub().buffer_strategy(BufferStrategy.durable(journal))
    hub.middleware(Deduplicator(durable=True, ttl=5)).middleware(Deduplicator(durable=True, per="tenant"))
    hub.middleware(Deduplicator(durable=True), name="by/hand").middleware(Deduplicator(durable="/else/where"))
    stems = ("Deduplicator", "Deduplicator-2", "by")
    assert places(hub) == [*(f"{journal}.{stem}.ids" for stem in stems), "/else/where"]


def partition(path: Path, clock: FakeClock, number: int, parts: int, **options: Any) -> Any:
    config = Deduplicator(durable=str(path), **options)
    placed: Any = config.in_partition(number, parts, KeySpace(parts).partition_of)
    step = placed.build(clock)
    step.start()
    return step


def divided(path: Path, clock: FakeClock, parts: int, **options: Any) -> list[Any]:
    """Start a deduplicator in this number of partitions; 1: it is not divided."""
    if parts == 1:
        return [started(path, clock, **options)]
    return [partition(path, clock, number, parts, **options) for number in range(parts)]


async def settle_divided(steps: list[Any], *event_ids: str) -> list[str]:
    """Have each partition see and settle the ids that are its own; return those that went on."""
    partition_of = KeySpace(len(steps)).partition_of
    found = [await settle(step, *(i for i in event_ids if partition_of(i) == n)) for n, step in enumerate(steps)]
    return sorted(event_id for own in found for event_id in own)


@pytest.mark.parametrize("numbers", [(1, 3), (3, 1), (2, 5, 2), (4, 4), (3, 2, 1, 2, 3)])
async def test_partitions_of_another_number_know_after_a_restart_what_was_seen(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    clock = FakeClock()
    seen: list[str] = []
    for turn, parts in enumerate(numbers):
        fresh = [f"{turn}-{number}" for number in range(30)]
        steps = divided(tmp_path / "ids", clock, parts)
        assert await settle_divided(steps, *seen) == []
        assert await settle_divided(steps, *fresh) == sorted(fresh)
        seen += fresh
        clock.advance(1)  # and none is closed: they are killed


async def test_each_partition_has_files_of_its_own_keys(tmp_path: Path) -> None:
    clock = FakeClock()
    steps = divided(tmp_path / "ids", clock, 2)
    await settle_divided(steps, *map(str, range(40)))
    assert sorted(os.listdir(tmp_path)) == ["ids.1-of-2", "ids.2-of-2"]
    assert sum(len(step._seen) for step in divided(tmp_path / "ids", clock, 2)) == 40
    four = divided(tmp_path / "ids", clock, 4)
    assert sum(len(step._seen) for step in four) == 40


async def test_files_of_another_number_go_when_nobody_needs_them_and_not_before(tmp_path: Path) -> None:
    clock = FakeClock()
    await settle_divided(divided(tmp_path / "ids", clock, 3, ttl=10), *map(str, range(30)))
    clock.advance(9)
    steps = divided(tmp_path / "ids", clock, 2, ttl=10)
    assert await settle_divided(steps, *map(str, range(30))) == []
    await settle_divided(steps, *(f"b{number}" for number in range(30)))
    assert len(os.listdir(tmp_path)) == 5
    clock.advance(10)
    await settle_divided(steps, *(f"c{number}" for number in range(30)))  # without a restart
    assert sorted({name.removesuffix(".1") for name in os.listdir(tmp_path)}) == ["ids.1-of-2", "ids.2-of-2"]


async def test_a_partition_whose_file_was_taken_for_an_old_one_writes_another(tmp_path: Path) -> None:
    clock = FakeClock()
    (step,) = divided(tmp_path / "ids", clock, 1, ttl=10)
    await settle(step, "a")
    clock.advance(11)
    divided(tmp_path / "ids", clock, 2, ttl=10)
    assert not os.listdir(tmp_path)
    await settle(step, "b", batch=2)  # the change was taken back
    assert await settle_divided(divided(tmp_path / "ids", clock, 2, ttl=10), "a", "b") == ["a"]


async def test_state_that_moves_is_on_disk_before_it_counts_as_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, clock = Deduplicator(), FakeClock()
    before: Any = config.build(clock)
    await settle(before, *map(str, range(20)))
    shares = config.split_state(before.snapshot(), 2, KeySpace(2).partition_of)
    first = partition(tmp_path / "ids", clock, 0, 2)
    first.restore(config.merge_states([shares[0]]))
    known = set(shares[0]["seen"])
    assert set(partition(tmp_path / "ids", clock, 0, 2)._seen) == known, "and nothing was seen since"

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(seen_log, "_write", full)
    with pytest.raises(OSError, match="No space left"):  # the change is refused, and the one before goes on
        partition(tmp_path / "ids", clock, 1, 2).restore(config.merge_states([shares[1]]))
    with pytest.raises(OSError, match="No space left"):
        first.restore(config.merge_states([shares[0]]))
    assert set(partition(tmp_path / "ids", clock, 0, 2)._seen) == known, "what was on disk is still there"
    assert os.listdir(tmp_path) == ["ids.1-of-2"]


async def test_what_is_written_again_is_synced_before_it_takes_the_place_of_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"rename {new.name}")
        rename(old, new)

    step = started(tmp_path / "ids", FakeClock())
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    step._log.write({"a": 0.0})
    at = done.index("rename ids")
    assert done[at - 1] == "sync ids.new"
    assert f"sync {tmp_path.name}" in done[at:]


PROGRAM = """
import os, signal, sys
from polku import BufferStrategy, Deduplicator, Hub, new_event

hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(sys.argv[1])).middleware(Deduplicator(durable=True))
hub.emitter(lambda batch: None, name="out")
sender = hub.start().sender()
assert sender.send([new_event("t", id=str(number)) for number in range(100)]).ok
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_pipeline_that_is_killed_knows_what_it_had_taken(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "journal")], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable(tmp_path / "journal"))
    hub.middleware(Deduplicator(durable=True)).emitter(recorder, name="second")
    with hub.start() as pipeline:
        assert pipeline.sender().send([new_event("t", id=str(number)) for number in range(50, 150)]).ok
        assert [event.id for event in recorder.wait_for(50)] == [str(number) for number in range(100, 150)]


def test_its_files_are_its_users_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        step = started(tmp_path / "ids", FakeClock())
        step._seen["a"] = 0.0
        step._log.add(["a"], step._seen)
    finally:
        os.umask(mask)
    assert (tmp_path / "ids").stat().st_mode & 0o777 == 0o600
