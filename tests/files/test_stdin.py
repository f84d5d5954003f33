"""The StdinSource: `polku run` at the end of a real pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from polku import Hub, PlanError, StdinSource
from polku.clock import SystemClock
from polku.contracts import Pulled
from polku.files import stdin
from polku.testing import SourceCheck, source_checks
from tests.files.origin import StandardInput
from tests.support.recorder import Recorder

_FILE = """
from pathlib import Path
from polku import Hub, StdinSource
from tests.support.recorder import Recorder
hub = Hub().source(StdinSource({options})).emitter(Recorder(Path({out!r})))
"""


def run(tmp_path: Path, options: str = "") -> tuple[subprocess.Popen[bytes], Recorder]:
    """Start `polku run` with a pipe as its standard input."""
    out = tmp_path / "out"
    (tmp_path / "file.py").write_text(_FILE.format(options=options, out=str(out)))
    command = [*(sys.executable, "-m", "polku", "run", str(tmp_path / "file.py")), "--runtime", "inline"]
    command += ["--grpc-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT), Recorder(out)


def test_the_end_of_the_input_ends_the_program_when_everything_is_delivered(tmp_path: Path) -> None:
    process, out = run(tmp_path)
    said, _ = process.communicate(b"".join(b"line %d\n" % number for number in range(20_000)) + b"no line break", 60)
    assert process.returncode == 0, said
    assert b"polku: the input is at its end" in said
    got = [event.payload.decode() for event in out.events()]
    assert got == [*(f"line {number}" for number in range(20_000)), "no line break"]
    assert len({event.id for event in out.events()}) == 20_001
    assert {event.source for event in out.events()} == {"stdin"}


def test_a_program_that_need_not_end_waits_for_its_signal(tmp_path: Path) -> None:
    process, out = run(tmp_path, "stop_at_end=False")
    assert process.stdin is not None
    try:
        process.stdin.write(b"one\n")
        process.stdin.close()
        process.stdin = None
        out.wait_for(1, 30)
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make a pipe the standard input; return its other end."""
    read, write = os.pipe()
    monkeypatch.setattr(stdin, "_DESCRIPTOR", read)
    yield write
    os.close(read)


class Stream:
    """The way in, which answers as soon as it may."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.may_answer = asyncio.Event()
        self.news = asyncio.Event()

    async def push(self, records: Sequence[Pulled]) -> Any:
        self.texts += [record.content.payload.decode() for record in records]  # type: ignore[union-attr]
        self.news.set()
        return asyncio.ensure_future(self._answer())

    async def _answer(self) -> None:
        await self.may_answer.wait()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.texts) < count:
                self.news.clear()
                await self.news.wait()


@pytest.mark.parametrize("check", source_checks(StandardInput.abilities), ids=str)
async def test_it_keeps_the_contract(check: SourceCheck) -> None:
    await check.run(StandardInput())


async def test_nothing_is_read_that_the_pipeline_does_not_take(pipe: int) -> None:
    source, stream = StdinSource(window=10).build(SystemClock()), Stream()
    task = asyncio.create_task(source.run(lambda *_, **__: stream))
    os.write(pipe, b"line\n" * 10)
    await stream.wait_for(10)
    os.write(pipe, b"more\n")
    await asyncio.sleep(0)
    assert len(stream.texts) == 10
    stream.may_answer.set()
    await stream.wait_for(11)
    os.close(pipe)
    await task
    assert source.state().ended


async def test_a_stop_hands_in_what_was_read_and_leaves_the_thread(pipe: int) -> None:
    source, stream = StdinSource().build(SystemClock()), Stream()
    task = asyncio.create_task(source.run(lambda *_, **__: stream))
    os.write(pipe, b"one\nhalf a li")
    await stream.wait_for(1)
    stream.may_answer.set()
    await source.drain()
    await task
    assert stream.texts == ["one", "half a li"]
    assert not source.state().ended
    os.close(pipe)


async def test_the_last_record_of_several_lines_is_complete_after_a_pause(pipe: int) -> None:
    source, stream = StdinSource(multiline=r"^\S", multiline_seconds=0.05).build(SystemClock()), Stream()
    stream.may_answer.set()
    task = asyncio.create_task(source.run(lambda *_, **__: stream))
    os.write(pipe, b"one\n  more\ntwo\n  more\n")
    await stream.wait_for(2)
    assert stream.texts == ["one\n  more", "two\n  more"]
    os.close(pipe)
    await task


def test_on_ray_it_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"source 'stdin'.*reads what only this process has.*--runtime inline"):
        Hub(runtime="ray").source(StdinSource()).emitter(Recorder(tmp_path / "out")).plan()


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(PlanError, match=r"StdinSource\(window=0\): must be a whole number"):
        StdinSource(window=0)
    with pytest.raises(PlanError, match="needs source="):
        StdinSource(decode="ingestor", source="")
