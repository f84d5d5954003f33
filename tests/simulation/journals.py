"""The real journal in a simulated case: `polku.buffer.durable` on a `Volume`, its thread in virtual time.

Beside the judge of the whole case stands a `Shadow`: what each commit that succeeded must have left, compared with what
is there whenever a journal is opened.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from polku.batch.batch import Identity
from polku.buffer import journal_file, journal_session, journal_sweep, log_writer, place, recent, repair, reserve
from polku.buffer.durable import DurableLog
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.journal_session import JournalSession, Opened
from polku.buffer.lock import FileLock
from polku.buffer.remembered import StoredAnswer
from polku.buffer.strategy import BufferStrategy
from polku.errors import JournalError
from polku.testing.simulation.disk import Applied, Disk, StoredBatch
from polku.testing.simulation.loop import Process, current_process
from polku.testing.simulation.world import World
from tests.simulation import build, vfs
from tests.simulation.threads import Threads
from tests.simulation.volume import Volume

LATE = 3.0  # seconds after which an operation that a cut waited for is waited for no more
_WITH_JOURNAL = ("/buffer", "/lane")  # the parts that have a journal open
_OBSERVERS = ("faults", "health", "main", "outside")
_SURE_ANSWERS = 100  # of each sender, the latest: a journal keeps more

current: Journals | None = None
"""Those of the case that runs."""


def is_real(case: dict[str, Any]) -> bool:
    """Return whether a case has the real journal."""
    buffer = case["buffer"]
    return bool(buffer["kind"] == "durable" and buffer.get("journal") == "real" and vfs.layer())


@contextlib.contextmanager
def installed(world: World, case: dict[str, Any]) -> Iterator[None]:
    """Have the durable buffers of a case write to real journals, where it says so."""
    global current
    if not is_real(case):
        yield
        return
    folder = Path(build.path()).parent
    folder.mkdir(exist_ok=True)
    letters = Path(f"{build.path()}.dead") if case["letters"] == "disk" else None
    for file in folder.iterdir():
        if file != letters:
            file.unlink()
    current = Journals(world, str(folder))
    if letters is not None:
        current.volume.adopt(str(letters))
    try:
        with vfs.mounted(current.volume):
            current.install()
            try:
                yield
            finally:
                current.end()
    finally:
        current = None
        shutil.rmtree(folder, ignore_errors=True)


class Journals:
    """The journals of one case and the processes that have them open."""

    def __init__(self, world: World, folder: str) -> None:
        self.world = world
        self.random = Random(world.seed + 3)
        self.mode: Callable[[], str] = lambda: world.disks.get(build.path(), _WELL).mode
        self.volume = Volume(folder, self.random, mode=lambda: self.mode(), on_trip=self._watch, is_part=_is_part,
                             sleep=world.loop.advance)  # fmt: skip
        self.threads = Threads(world.loop, self._pause)
        self.shadows: dict[str, Shadow] = defaultdict(lambda: Shadow(world))
        self.repairs = False
        self._open: dict[Process, list[sqlite3.Connection]] = {}
        self._logs: dict[Process, list[DurableLog]] = {}
        self._watched: set[Process] = set()
        self._lost: list[Process] = []  # they count as dead, and live
        self._cutting = False
        self._cut: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Put everything in its place."""
        world, random = self.world, self.random
        world.open_log = self._open_log
        rename, unlink, fsync = os.rename, os.unlink, os.fsync
        connect, write, opened = sqlite3.connect, Journal.write, JournalSession._open_journal
        salvage, fail = repair.salvage, DurableLog.on_failed

        def renamed(old: Any, new: Any, **options: Any) -> None:
            self.volume.rename(os.fspath(old), os.fspath(new))
            rename(old, new, **options)

        def unlinked(path: Any, **options: Any) -> None:
            name = os.fspath(path)
            if name.endswith(".reserve") and os.path.exists(name):
                self.volume.give_room(os.path.getsize(name))
            self.volume.unlink(name)
            unlink(path, **options)

        def synced(descriptor: int) -> None:
            self.volume.sync_folder(descriptor)
            fsync(descriptor)

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            db: sqlite3.Connection = connect(*arguments, **options)
            self._of(self._open).append(db)
            return db

        def written(one: Journal, work: Transaction) -> tuple[int, int]:
            if one.path.suffix == ".repairing":
                return write(one, work)
            shadow = self.shadows[str(one.path)]
            shadow.try_(work)
            freed = write(one, work)
            shadow.commit(work, one._owner.token if one._owner else "")
            return freed

        def compared(session: JournalSession, outlets: Sequence[str]) -> Opened:
            result = opened(session, outlets)
            world.ledger.count("journals opened")
            self.shadows[str(session.path)].compare(result.journal)
            return result

        def salvaged(path: Any, **options: Any) -> Any:
            if not self.repairs:
                world.ledger.fault("repair: a journal is damaged, and nothing damaged it")
            world.ledger.count("journals repaired")
            result = salvage(path, **options)
            if result.lost or result.faults:
                world.ledger.fault(f"repair: {result}")
            return result

        def failed(log: DurableLog, units: Any, error: JournalError) -> None:
            fail(log, units, error)
            if not log.fault:
                world.ledger.fault(f"health: the buffer refuses ({error}), and is well")

        world.patch(log_writer, "threading", self.threads)
        world.patch(DurableLog, "on_failed", failed)
        for name, value in {"rename": renamed, "unlink": unlinked, "fsync": synced}.items():
            world.patch(os, name, value)
        world.patch(sqlite3, "connect", connected)
        world.patch(Journal, "write", written)
        world.patch(JournalSession, "_open_journal", compared)
        world.patch(journal_session, "salvage", salvaged)
        world.patch(reserve, "_allocate", self._allocate)
        world.patch(place, "mount_of", lambda path: (Path("/"), "ext4"))
        world.patch(recent, "LIMIT", random.choice([0, 4096, recent.LIMIT]))
        world.patch(journal_file, "_CHECKPOINT_PAGES", random.choice([2, 8, journal_file._CHECKPOINT_PAGES]))
        world.patch(journal_sweep, "SWEEP_COMMITS", random.choice([1, journal_sweep.SWEEP_COMMITS]))

    def inject(self, system: Any, fault: Mapping[str, Any]) -> None:
        """Let something happen: a `cut` of the power, a `crash` of a process at its disk, a `repair`, a `takeover`."""
        if fault["what"] == "repair":
            self._ask_repair()
            return
        if fault["what"] == "takeover":
            self._take_over(system, fault["seconds"])
            return
        everywhere = fault["node"]

        def covers(path: str) -> bool:
            return everywhere or ".dead" not in path

        def cut() -> None:
            self._cutting = True
            self.world.trace(f"power cut{' of the node' if everywhere else ''}")
            self.world.ledger.count("power cuts")
            for name, part in system.parts.items():
                if everywhere or name.endswith(_WITH_JOURNAL):
                    self.world.loop.kill(part.process, by_chance=True)
            for process in self._lost:
                self.world.loop.kill(process, by_chance=True)
            self.volume.cut(covers)
            self._cutting = False

        def late() -> None:
            if self.volume.disarm() and fault["what"] == "cut":
                cut()

        self._cut = cut
        if fault["ops"]:
            self.volume.arm(fault["what"], fault["ops"], covers)
            self.world.loop.call_later(LATE, late)
        else:
            cut()

    def end(self) -> None:
        """Close what is still open."""
        self.threads.end()
        for process in [*self._open, *self._logs]:
            self._bury(process)

    def _open_log(self, strategy: BufferStrategy, *, final: bool, formerly: Mapping[str, str] | None) -> DurableLog:
        log = DurableLog(strategy.path, final=final, formerly=formerly)
        log.window = self.random.choice([1, 3, 4096])
        self._of(self._logs).append(log)
        return log

    def _of(self, lists: dict[Process, list[Any]]) -> list[Any]:
        process = current_process() or self.world.loop.outside
        self._watch(process)
        return lists.setdefault(process, [])

    def _watch(self, process: Process) -> None:
        if process not in self._watched:
            self._watched.add(process)
            process.on_death.append(partial(self._died, process))

    def _died(self, process: Process) -> None:
        self._bury(process)
        if self.volume.off and not self._cutting:
            self._cut()

    def _bury(self, process: Process) -> None:
        """Close the files and release the locks of a process that has ended, as the kernel does."""
        if process in self.volume.dying:
            self.volume.dying.discard(process)
            self.world.trace(f"{process.name} died at its disk")
            self.world.ledger.count("deaths at the disk")
        for db in self._open.pop(process, ()):
            with contextlib.suppress(sqlite3.Error):
                db.close()
        for log in self._logs.pop(process, ()):
            if log._session.lock is not None:
                log._session.lock.release()
                log._session.lock = None

    def _ask_repair(self) -> None:
        """Let every journal be repaired that is open."""
        self.repairs = True
        for log in [log for logs in self._logs.values() for log in logs]:
            log._writer.repair()

    def _take_over(self, system: Any, seconds: float) -> None:
        """Let the buffers' host count as lost while it lives: another one gets their disk, and sees no locks of it."""
        for name, part in system.parts.items():
            if not name.endswith("/buffer") or not part.is_up:
                continue
            old, death = part.process, part.death
            self.world.trace(f"{name} counts as lost, and lives on")
            self.world.ledger.count("journals taken over")
            for log in self._logs.get(old, ()):
                if log._session.lock is not None:
                    log._session.lock.release()
                    log._session.lock = _Unseen()
            old.on_death.remove(part._die)
            system.on_death(part)
            part.begin()
            death.set_result(None)
            self._lost.append(old)
            self.world.loop.call_later(seconds, self.world.loop.kill, old)

    def _allocate(self, file: int) -> None:
        process = current_process()
        if self.volume.fails(f"{self.volume.folder}/reserve", process):
            raise OSError(5, "input/output error")
        if not self.volume.takes_room(reserve.SIZE - os.fstat(file).st_size, process):
            raise OSError(28, "no space left on device")
        os.ftruncate(file, reserve.SIZE)

    def _pause(self) -> float:
        pause = 0.003 * self.random.random()
        if self.mode() == "slow":
            pause += 0.7 * self.random.random()
        if self.mode() == "hangs":
            pause += 5.0
        return pause


class _Unseen(FileLock):
    """A lock of another host."""

    def __init__(self) -> None:
        pass

    def hold_file(self) -> None:
        pass

    def confirm(self) -> None:
        pass

    def release(self) -> None:
        pass


class Shadow:
    """What is in a journal by what was committed: each commit that succeeded stays, one that failed is there or not."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._applied = Applied()
        self._rows: dict[int, tuple[frozenset[str], int]] = {}
        self._doubtful: list[Transaction] = []
        self._tried: dict[int, set[int]] = defaultdict(set)
        self._cursors: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._answers: dict[str, list[Identity]] = defaultdict(list)
        self._owner = ""

    def try_(self, work: Transaction) -> None:
        """Learn what is to be written."""
        self._doubtful.append(work)
        for row in work.rows:
            self._tried[row.position].add(zlib.crc32(row.payload))
        for name, cursor in work.cursors.items():
            self._most[name] = max(cursor, self._most.get(name, 0))

    def commit(self, work: Transaction, owner: str) -> None:
        """Learn that it is written."""
        self._doubtful.remove(work)
        if owner != self._owner:
            self._fault("somebody wrote who is not its owner any more")
        for row in work.rows:
            stored = StoredBatch(frozenset(row.takers), row.header, row.payload)
            self._applied.add(self._world.ledger, (row.position, stored), _answer_to(row, work), life=owner)
        self._keep(work)

    def compare(self, one: Journal) -> None:
        """Compare it with what a journal has that was opened just now."""
        self._owner = one._owner.token if one._owner else ""
        cursors = {name: cursor for name, _, cursor in one.cursors()}
        found = {at: zlib.crc32(payload) for at, payload in one._db.execute("SELECT position, payload FROM batch")}
        known = {answer.identity for answer in one.answers()}
        self._decide(found, known)
        for name, cursor in self._cursors.items():
            if not cursor <= cursors.get(name, 0) <= max(cursor, self._most.get(name, 0)):
                self._fault(f"the cursor of {name} was committed at {cursor}, and is at {cursors.get(name)}")
        for at, (takers, content) in list(self._rows.items()):
            if all(cursors.get(name, 0) >= at for name in takers):
                del self._rows[at]
            elif found.get(at) != content:
                self._fault(f"the batch at {at} was committed, and is {'another one' if at in found else 'gone'}")
        for at, content in found.items():
            if content not in self._tried[at]:
                self._fault(f"the batch at {at} was never written")
        for identity in [identity for answers in self._answers.values() for identity in answers]:
            if identity not in known:
                self._fault(f"the answer to {identity} was committed, and is gone")

    def _decide(self, found: Mapping[int, int], known: Collection[Identity]) -> None:
        """Find out what became of the commits that failed: all of each is there, or nothing."""
        for work in self._doubtful:
            there = [found.get(row.position) == zlib.crc32(row.payload) for row in work.rows]
            there += [answer.identity in known for answer in work.answers]
            if work.rows and any(there[: len(work.rows)]):
                if not all(there):
                    self._fault(f"of a commit that was cut off a part is there: {there}")
                self._keep(work._replace(cursors={}))
        self._doubtful.clear()

    def _keep(self, work: Transaction) -> None:
        for row in work.rows:
            self._rows[row.position] = frozenset(row.takers), zlib.crc32(row.payload)
        for name, cursor in work.cursors.items():
            self._cursors[name] = max(cursor, self._cursors.get(name, 0))
        for answer in work.answers:
            whole = answer.identity.whole
            answers = self._answers[whole.origin]
            if answers and answers[-1].whole.epoch != whole.epoch:
                answers.clear()  # another life of the sender asks for none of them
            answers.append(answer.identity)
            del answers[:-_SURE_ANSWERS]

    def _fault(self, text: str) -> None:
        self._world.ledger.fault(f"journal: {text}")


def _answer_to(row: Row, work: Transaction) -> StoredAnswer | None:
    return next((answer for answer in work.answers if answer.first <= row.position <= answer.last), None)


def _is_part(process: Process) -> bool:
    return process.name not in _OBSERVERS


_WELL = Disk()
