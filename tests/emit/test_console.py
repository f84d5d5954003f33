"""Standard output that is read late, closed, replaced, or in another process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys

import pytest

from polku import MisconfiguredError
from polku.emit.console import DirectConsole, RelayConsole

IMPATIENT = """
import asyncio, sys
from polku.emit.console import DirectConsole

async def main():
    console = DirectConsole()
    for _ in range(3):
        try:
            async with asyncio.timeout(0.1):
                await console.write(b"x" * 300_000 + b"\\n")
        except TimeoutError:
            print("late", file=sys.stderr, flush=True)

asyncio.run(main())
"""

PATIENT = IMPATIENT.replace("0.1", "30").replace("range(3)", "range(1)")


def start(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_reader_that_does_not_read_keeps_the_process_neither_busy_nor_alive() -> None:
    process = start(IMPATIENT)
    assert process.wait(120) == 0  # nobody has read anything yet
    out, err = process.communicate(timeout=20)
    assert err.split() == [b"late"] * 3
    assert out == b"x" * len(out)
    assert len(out) < 300_000


def test_what_was_given_up_and_written_again_is_printed_once() -> None:
    again = IMPATIENT.replace("asyncio.run(main())", "").replace(
        '            print("late", file=sys.stderr, flush=True)',
        '            print("late", file=sys.stderr, flush=True)\n    await console.write(b"x" * 300_000 + b"\\n")\n',
    )
    process = start(again + "\nasyncio.run(main())\n")
    assert process.stderr is not None
    for _ in range(3):
        assert process.stderr.readline() == b"late\n"
    out, err = process.communicate(timeout=20)
    assert out == b"x" * 300_000 + b"\n"
    assert err == b""


def test_a_slow_reader_gets_everything() -> None:
    out, err = start(PATIENT).communicate(timeout=20)
    assert (out, err) == (b"x" * 300_000 + b"\n", b"")


def test_a_reader_that_went_away_is_an_error_and_not_a_crash_at_the_end() -> None:
    program = """
import asyncio, sys
from polku import Batch, Event, MisconfiguredError, StdoutEmitter
from polku.clock import SystemClock

emitter = StdoutEmitter().build(SystemClock())
try:
    asyncio.run(emitter.emit(Batch.from_events([Event(id="a")])))
except MisconfiguredError as error:
    print(error, file=sys.stderr)
"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, timeout=20)
    os.close(writer)
    assert done.stderr == b"standard output cannot be written: [Errno 32] Broken pipe\n"
    assert done.returncode == 0


async def test_what_stands_in_for_standard_output_is_used() -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        await DirectConsole().write("ä\n".encode())
    assert text.getvalue() == "ä\n"
    text.close()
    with contextlib.redirect_stdout(text), pytest.raises(MisconfiguredError, match="closed file"):
        await DirectConsole().write(b"x")


async def test_a_relayed_text_is_confirmed_once_the_program_wrote_it() -> None:
    console = RelayConsole()
    writes = [asyncio.ensure_future(console.write(text)) for text in (b"a", b"b")]
    await asyncio.sleep(0)
    assert await console.next(0, "") == (2, b"ab")
    assert not writes[0].done()
    asking = asyncio.ensure_future(console.next(2, ""))
    assert await asyncio.gather(*writes) == [None, None]
    third = asyncio.ensure_future(console.write(b"c"))
    assert await asking == (3, b"c")
    asking = asyncio.ensure_future(console.next(3, "broken"))
    with pytest.raises(MisconfiguredError, match="broken"):
        await third
    asking.cancel()


async def test_a_relayed_text_that_is_written_again_is_handed_out_once() -> None:
    console = RelayConsole()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await console.write(b"a")
    again = asyncio.ensure_future(console.write(b"a"))
    await asyncio.sleep(0)
    assert await console.next(0, "") == (1, b"a")
    asking = asyncio.ensure_future(console.next(1, ""))
    await again
    asking.cancel()
