"""Run a FileSource: read where there is something new and the pipeline takes it, and store how far."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from polku.clock import Clock
from polku.contracts import PulledStream, SourceState
from polku.errors import DrainingError
from polku.files.decode import READERS, Decode
from polku.files.folder import Folder
from polku.files.followed import Chunk, Flight, FollowedFile
from polku.files.lines import Grouper, Line, LineSplitter
from polku.files.offsets import Entry, Offsets
from polku.files.source import FileSource, Start, begins_pattern
from polku.log import RepeatedLog
from polku.pull.in_flight import InFlight

_LOG = RepeatedLog(logging.getLogger("polku.files"))

OpenStream = Callable[..., PulledStream]
P = ParamSpec("P")
R = TypeVar("R")


class Follower:
    """The running source; what it knows of files lives from one `run` to its end."""

    def __init__(self, config: FileSource, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._offsets = Offsets(str(config.offsets) if config.offsets is not None else "")
        self._run: _Run | None = None
        self._stopped = asyncio.Event()
        self._records = self._commits = 0

    def start(self) -> None:
        """Make sure that offsets that are there can be read; raises `PlanError`."""
        self._offsets.load()

    async def run(self, open_stream: OpenStream) -> None:
        """Follow the files until `stop`; raises what keeps it from its offsets."""
        run = self._run = _Run(self._config, self._offsets, open_stream, self._clock, self._stopped)
        try:
            await run.follow()
        except DrainingError:
            pass
        except BaseException:
            self._run = None
            self._count(run)
            await run.close()  # what has no answer is read again
            raise

    def stop(self) -> None:
        """Read nothing more."""
        self._stopped.set()

    async def drain(self) -> None:
        """Wait until everything that was read is in, and store that."""
        self.stop()
        if self._run is not None:
            await self._run.drain()
        await self.close()

    async def close(self) -> None:
        """Close the files; what is still in flight is read again after the next start."""
        self.stop()
        run, self._run = self._run, None
        if run is not None:
            self._count(run)
            await run.close()

    def state(self) -> SourceState:
        """Return a snapshot."""
        run = self._run
        if run is None:
            return SourceState(f"no file is open, {self._records} records", records=self._records)
        state = run.state()
        records, commits = state.records + self._records, state.commits + self._commits
        return state._replace(records=records, commits=commits)

    def _count(self, run: _Run) -> None:
        self._records += run.records
        self._commits += run.commits


class _Run:
    """Follow the files once, from what is stored."""

    def __init__(
        self, config: FileSource, offsets: Offsets, open_stream: OpenStream, clock: Clock, stopped: asyncio.Event
    ) -> None:
        self.records = self.commits = 0
        self._config = config
        self._form = config.form
        self._begins = begins_pattern("FileSource", config.multiline)
        self._offsets = offsets
        self._open_stream = open_stream
        self._clock = clock
        self._stopped = stopped
        self._in_flight = InFlight(config.window, config.window_bytes)
        self._folder: Folder | None = None
        self._disk = asyncio.Lock()  # the files are in a thread, or here
        self._thread = threading.Lock()  # a thread goes on where its caller was cancelled
        self._reading = asyncio.Lock()
        self._stored: list[Entry] = []
        self._fault = ""
        self._state = SourceState("looking for files")

    async def follow(self) -> None:
        """Read until `stop`, and store offsets meanwhile."""
        folder = await self._in_thread(self._begin)
        storing = asyncio.get_running_loop().create_task(self._store_often())
        storing.add_done_callback(self._ended_storing)
        try:
            async with self._reading:
                await self._follow(folder)
        finally:
            storing.cancel()

    async def drain(self) -> None:
        """Wait until what was read is in, and store that."""
        async with self._reading:
            await self._in_flight.idle()
        await self._store()

    async def close(self) -> None:
        """Close the files, and let others use the offsets."""
        if self._folder is not None:
            await self._in_thread(self._folder.close)
        self._offsets.release()

    def state(self) -> SourceState:
        """Return a snapshot, as of the last look."""
        return self._state

    def _begin(self) -> Folder:
        config = self._config
        self._offsets.hold()
        entries = self._offsets.load()
        from_end = config.start is Start.END and self._offsets.is_new
        folder = Folder(
            config.patterns,
            config.exclude,
            self._make,
            from_end=from_end,
            rotate_seconds=config.rotate_seconds,
        )
        folder.begin(entries)
        self._stored = entries
        self._folder = folder
        return folder

    def _make(self, entry: Entry) -> FollowedFile:
        config, limit = self._config, self._config.max_line_bytes
        path = _shown(entry.path)
        source = config.source or path
        reader = READERS.get(Decode(config.decode), source)
        stream = self._open_stream(source, cluster=config.cluster, format=config.format, reader=reader)
        return FollowedFile(entry, partial(LineSplitter, limit), Grouper(self._begins, limit), stream)

    async def _follow(self, folder: Folder) -> None:
        scan_at = self._clock.monotonic()
        self._warn_of_nothing(await self._in_thread(folder.unmatched))
        while not self._stopped.is_set():
            now = self._clock.monotonic()
            if now >= scan_at:
                scan_at = now + self._config.scan_seconds
                await self._in_thread(folder.scan, now)
            if not folder.has_new or await self._store():  # ids must be known before there is an event that has one
                folder.has_new = False
                if await self._read_each(folder):
                    continue
            await self._pause()

    def _warn_of_nothing(self, patterns: list[str]) -> None:
        """Say once, at the start and after a reload, which patterns lead to no file."""
        for pattern in patterns:
            fix = "files that come are followed; is the pattern right, or are they excluded?"
            _LOG.warning(("unmatched", pattern), "source %s: no file matches %s: %s", self._config.name, pattern, fix)

    async def _read_each(self, folder: Folder) -> bool:
        """Read some of each file in which there is something; return whether there was."""
        news = await self._in_thread(folder.news, self._clock.monotonic(), self._config.multiline_seconds)
        moved = False
        for file in news:
            await self._in_flight.room()
            if self._stopped.is_set() or folder.has_new:
                break
            try:
                chunk = await self._in_thread(folder.read, file, self._clock.monotonic())
            except OSError:  # it stands among the faults, and is tried again after the next scan
                continue
            await self._hand_in(file, chunk)
            moved = moved or bool(chunk.records) or (file.is_open and file.position < file.size)
        folder.forget_done()
        self._look(folder)
        return moved

    async def _hand_in(self, file: FollowedFile, chunk: Chunk) -> None:
        if not chunk.records:
            file.handed_in(chunk.reached, None)
            return
        path = _shown(file.path)
        metadata = {"file.path": path}
        async for portion in self._in_flight.portions(chunk.records):
            if self._stopped.is_set() and not file.is_over:
                return  # the rest is read again
            records = [self._form.record(one, path, _id(file, one), metadata) for one in portion]
            answer = await file.stream.push(records)
            reached = chunk.reached if portion[-1] is chunk.records[-1] else portion[-1].end
            flight = Flight(reached)
            file.handed_in(reached, flight)
            self.records += len(records)
            size = sum(len(one.content) for one in portion)
            self._in_flight.add(answer, len(records), size, partial(file.settle, flight))

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._config.poll_seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass

    async def _store_often(self) -> None:
        while True:
            await asyncio.sleep(self._config.commit_seconds)
            await self._store()
            if self._folder is not None:
                self._look(self._folder)

    async def _store(self) -> bool:
        """Store how far the files are in the pipeline, if that is not stored; return whether it is."""
        async with self._disk:
            assert self._folder is not None
            entries = [file.entry() for file in self._folder.files if not file.is_over]
            if entries == self._stored and not self._offsets.is_new:
                return True
            try:
                await asyncio.to_thread(self._alone, self._offsets.save, entries)
            except OSError as error:
                self._fault = f"offsets cannot be stored: {error.strerror or error} ({self._config.offsets})"
                _LOG.warning("offsets", "%s", self._fault)
                return False
            self._fault = ""
            self._stored = entries
            self.commits += 1
            return True

    async def _in_thread(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        async with self._disk:
            return await asyncio.to_thread(lambda: self._alone(call, *arguments, **options))

    def _alone(self, call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        with self._thread:
            return call(*arguments, **options)

    def _ended_storing(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._in_flight.fail(error)

    def _look(self, folder: Folder) -> None:
        behind, counts = sum(file.behind for file in folder.files), folder.counts
        flying = self._in_flight.records
        files = f"{len(folder.files)} {'file' if len(folder.files) == 1 else 'files'}"
        text = f"{files}, {self.records} records, {flying} in flight, {behind} bytes behind"
        text += f", {counts.truncated} times truncated" if counts.truncated else ""
        if counts.lost_bytes:
            text += f", {counts.lost_bytes} bytes were gone before they were read"
            _LOG.warning("lost", "%d bytes of files were gone before they were read", counts.lost_bytes)
        text += "" if self._config.offsets is not None else "; offsets are not stored"
        alarm = self._fault or next(iter(list(folder.faults.values())), "")
        self._state = SourceState(text, alarm, self.records, self.commits, 0, flying)


def _id(file: FollowedFile, line: Line) -> str:
    """Return the id of a record: what was read twice has the same, and what was divided otherwise has another."""
    return f"{file.id}-{line.start}-{line.end}"


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
