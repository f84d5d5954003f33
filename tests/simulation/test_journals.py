"""The disk under the journal of simulated cases loses what was not synced, and nothing else; threads run in step."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from polku.testing.simulation.loop import Process, SimulatedLoop
from tests.simulation import vfs
from tests.simulation.generate import generate
from tests.simulation.run import run
from tests.simulation.test_simulation import simulate
from tests.simulation.threads import Threads
from tests.simulation.volume import Volume

pytestmark = pytest.mark.skipif(vfs.layer() is None, reason="the SQLite library of this Python cannot be reached")


T = TypeVar("T")


class Disk:
    """A volume, and the process that uses it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.process = Process("writer")
        self.mode = "ok"
        self.volume = Volume(str(folder), Random(seed), mode=lambda: self.mode, is_part=lambda process: True,
                             on_trip=lambda process: None, sleep=lambda seconds: None)  # fmt: skip

    def run(self, call: Callable[[], T]) -> T:
        return self.process.context.run(call)

    def cut(self) -> None:
        self.volume.off = True
        self.run(self.db.close)
        self.volume.cut(lambda path: True)
        self.volume.dying.clear()

    def open(self, level: str = "FULL") -> None:
        def connect() -> sqlite3.Connection:
            db = sqlite3.connect(f"{self.volume.folder}/file.db", isolation_level=None)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA synchronous={level}")
            db.execute("CREATE TABLE IF NOT EXISTS entry(number INTEGER, text BLOB)")
            return db

        self.db = self.run(connect)

    def write(self, number: int) -> None:
        self.run(lambda: self.db.execute("INSERT INTO entry VALUES(?, ?)", (number, bytes(1000 * number))))

    def numbers(self) -> list[int]:
        assert self.run(lambda: self.db.execute("PRAGMA integrity_check").fetchall()) == [("ok",)]
        return [number for (number,) in self.run(lambda: self.db.execute("SELECT number FROM entry ORDER BY number"))]


@pytest.mark.parametrize("seed", range(20))
def test_what_was_committed_survives_each_loss_of_power(tmp_path: Path, seed: int) -> None:
    disk, random = Disk(tmp_path, seed), Random(seed)
    with vfs.mounted(disk.volume):
        disk.open()
        written = 0
        for _ in range(5):
            disk.volume.arm("cut", random.randrange(1, 30), lambda path: True)
            try:
                for _ in range(20):
                    disk.write(written + 1)
                    written += 1
            except sqlite3.OperationalError:
                pass
            disk.cut()
            disk.open()
            numbers = disk.numbers()
            assert numbers in (list(range(1, written + 1)), list(range(1, written + 2)))
            written = len(numbers)
        disk.run(disk.db.close)


@pytest.mark.parametrize("level", ["OFF", "NORMAL"])
def test_what_was_not_synced_may_be_lost(tmp_path: Path, level: str) -> None:
    left = set()
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        disk = Disk(folder, seed)
        with vfs.mounted(disk.volume):
            disk.open(level)
            for number in (1, 2, 3):
                disk.write(number)
            disk.cut()
            disk.open()
            left.add(len(disk.numbers()))
            disk.run(disk.db.close)
    assert min(left) < 3
    assert max(left) == 3


def test_a_process_that_dies_leaves_what_it_wrote(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 1)
    with vfs.mounted(disk.volume):
        disk.open("OFF")
        disk.write(1)
        disk.process.dead = True
        disk.run(disk.db.close)
        assert (tmp_path / "file.db-wal").stat().st_size > 0
        disk.process = Process("writer")
        disk.open()
        assert disk.numbers() == [1]
        disk.run(disk.db.close)


def test_a_broken_and_a_full_disk_say_so_and_heal(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 1)
    with vfs.mounted(disk.volume):
        disk.open()
        for disk.mode, text in (("broken", "disk I/O error"), ("full", "database or disk is full")):
            with pytest.raises(sqlite3.OperationalError, match=text):
                disk.write(100)
            disk.mode = "ok"
            disk.write(1)
        assert disk.numbers() == [1, 1]
        disk.run(disk.db.close)


def test_a_rename_that_was_not_synced_is_all_there_or_not_at_all(tmp_path: Path) -> None:
    ends = set()
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        disk = Disk(folder, seed)
        old, new = str(folder / "file.db"), str(folder / "other.db")
        with vfs.mounted(disk.volume):
            disk.open()
            disk.run(disk.db.close)
            disk.volume.sync_names()
            disk.volume.rename(old, new)
            Path(old).rename(new)
            disk.cut()
        ends.add(tuple(sorted(file.name for file in folder.iterdir())))
    assert ends == {("file.db",), ("other.db",)}


def test_a_thread_waits_in_virtual_time_and_dies_with_its_process() -> None:
    loop = SimulatedLoop(Random(1))
    threads = Threads(loop, lambda: 0.5)
    process = Process("one")
    seen: list[tuple[object, float]] = []

    def work() -> None:
        condition = threads.Condition()
        with condition:
            seen.append(("waits", loop.time()))
            seen.append((condition.wait(3.0), loop.time()))
        try:
            condition.wait(1000.0)
        finally:
            seen.append(("ends", loop.time()))

    start = loop.time()
    context: Context = process.context
    context.run(lambda: threads.Thread(target=work).start())
    loop.call_later(10.0, loop.kill, process)
    loop.call_later(11.0, loop.stop)
    loop.run_forever()
    assert [(what, round(when - start, 2)) for what, when in seen] == [("waits", 0.0), (False, 3.0), ("ends", 10.0)]
    loop.close()


def test_a_case_with_the_real_journal_is_always_the_same() -> None:
    cut = 0
    for seed in range(1, 40):
        case = generate(seed, frozenset({"model"}))
        if any(fault["what"] in ("cut", "repair", "takeover") for fault in case["faults"]):
            results = [run(case) for _ in range(2)]
            assert len({(r.steps, r.virtual, tuple(r.faults), tuple(r.counts.items())) for r in results}) == 1
            cut += results[0].counts.get("power cuts", 0)
        if cut > 3:
            break
    assert cut > 3


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("faults", ["j3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("j7", "j8"))])
def test_faults_of_the_journal_are_found(faults: str) -> None:
    done = simulate("--mutants", *faults.split(), "--seconds", "60")
    assert done.returncode == 0, f"\n{done.stdout}\n{done.stderr}"
