"""Sources of users: what they hand in goes the way of what clients send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from polku import Event, Hub, IngestContext, Limits, RecordError, Source
from polku.codes import Code
from polku.contracts import Pulled, PulledStream, SourceState
from polku.errors import InputError
from polku.gateway.pulling import Sources
from tests.support.recorder import Recorder


class Lines:
    """Hand in a list of lines, two at a time, and keep how many are taken for good."""

    name = "lines"

    def __init__(self, *lines: bytes | Event | RecordError, fault: str = "") -> None:
        self.lines = lines
        self.fault = fault
        self.taken = 0
        self.answers: list[asyncio.Future[None]] = []
        self.stopped = False

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        if self.fault:
            raise OSError(self.fault)
        stream = open_stream("lines", cluster="eu")
        records = [Pulled(line, f"line {n}", f"l{n}", 7, {"k": "v"}) for n, line in enumerate(self.lines)]
        for start in range(0, len(records), 2):
            part = records[start : start + 2]
            answer = asyncio.ensure_future(await stream.push(part))
            answer.add_done_callback(partial(self._took, len(part)))
            self.answers.append(answer)

    def _took(self, count: int, answer: asyncio.Future[None]) -> None:
        self.taken += count

    def stop(self) -> None:
        self.stopped = True

    async def drain(self) -> None:
        await asyncio.gather(*self.answers)

    async def close(self) -> None:
        pass

    def state(self) -> SourceState:
        return SourceState(f"{self.taken} lines")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parse(data: bytes, context: IngestContext) -> list[Event | RecordError]:
    return [Event(event_type=word.decode()) for word in data.split()]


def test_what_a_source_of_yours_pulls_is_ingested_filled_in_and_in_order(tmp_path: Path) -> None:
    lines = Lines(b"a b", b"", Event(id="e", source="mine", timestamp_unix_ns=1), RecordError("torn"), b"c")
    assert isinstance(lines, Source)
    out = Recorder(tmp_path / "out")
    with Hub(runtime="inline").ingestor(parse, source="lines").source(lines).emitter(out).start() as pipeline:
        got = out.wait_for(4)
        wait_for(lambda: pipeline.health().components["source:lines"] == (True, "5 lines"))
        (letter,) = pipeline.dead_letters()
    assert [(e.id, e.event_type, e.source, e.timestamp_unix_ns) for e in got] == [
        ("l0", "a", "lines", 7),
        ("l0-1", "b", "lines", 7),
        ("e", "", "mine", 1),
        ("l4", "c", "lines", 7),
    ]
    assert all(event.metadata == {"cluster": "eu", "k": "v"} for event in got)
    assert (letter.event.id, letter.reason) == ("l3", "line 3: torn")
    assert lines.stopped


def test_two_events_of_one_id_that_are_both_refused_leave_a_letter_each(tmp_path: Path) -> None:
    def twins(data: bytes, context: IngestContext) -> list[Event | RecordError]:
        full = {str(number): "x" for number in range(Limits().metadata_entries + 1)}
        return [
            Event(id="twin", event_type="first", metadata=full),
            Event(id="twin", event_type="second", metadata=full),
        ]

    lines, out = Lines(b"."), Recorder(tmp_path / "out")
    with Hub(runtime="inline").ingestor(twins, source="lines").source(lines).emitter(out).start() as pipeline:
        wait_for(lambda: len(pipeline.dead_letters()) == 2)
        letters = pipeline.dead_letters()
    assert sorted((letter.event.event_type, letter.code) for letter in letters) == [
        ("first", "METADATA_LIMIT"),
        ("second", "DUPLICATE_ID"),
    ]


def test_an_ingestor_that_is_away_is_waited_for(tmp_path: Path) -> None:
    calls = 0

    def away(data: bytes) -> list[Event]:
        nonlocal calls
        calls += 1
        if calls < 4:
            raise InputError(Code.UNAVAILABLE, "the plugin is being restarted")
        return [Event(event_type=data.decode())]

    out = Recorder(tmp_path / "out")
    hub = Hub(runtime="inline").ingestor(away, source="lines").source(Lines(b"a", b"b")).emitter(out)
    with hub.start() as pipeline:
        assert [event.event_type for event in out.wait_for(2)] == ["a", "b"]
        assert not pipeline.dead_letters()


def test_a_source_that_raises_shows_in_health(tmp_path: Path) -> None:
    hub = Hub(runtime="inline").source(Lines(fault="the disk is gone")).emitter(Recorder(tmp_path / "out"))
    with hub.start() as pipeline:
        wait_for(lambda: not pipeline.health().healthy)
        assert pipeline.health().components["source:lines"] == (False, "OSError: the disk is gone")


class Odd(Lines):
    """Name records as no message can hold it."""

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        stream = open_stream("lines")
        records = [
            Pulled(Event(), "line\n0", "\ud800", 7, {"\udfff": "\ud800", "k": "v"}),
            Pulled(Event(), "1", "good"),
        ]
        records.append(Pulled(RecordError("\ud800"), "line\x1b[2J", "\ud800", 7, {"k": "\ud800"}))
        self.answers.append(asyncio.ensure_future(await stream.push(records)))


def test_a_source_that_names_records_as_no_message_can_hold_it_is_not_stopped_by_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="inline").source(Odd()).emitter(recorder).start() as pipeline:
        odd, good = recorder.wait_for(2)
        wait_for(pipeline.dead_letters)
        (letter,) = pipeline.dead_letters()
    assert (odd.id, dict(odd.metadata), good.id) == ("\\ud800", {"\\udfff": "\\ud800", "k": "v"}, "good")
    assert (letter.event.id, letter.reason) == ("\\ud800", "line\\x1b[2J: \\ud800")


async def test_sources_that_were_stopped_before_their_start_pull_nothing() -> None:
    class Connecting(Lines):
        async def start(self) -> None:
            raise AssertionError("it connects")

    nobody: Any = None
    sources = Sources({"lines": Connecting(b"a")}, nobody, nobody)
    sources.stop()
    await sources.start()
    await sources.drain()
    await sources.exchange({}, ["lines"])
    assert not sources.states()
