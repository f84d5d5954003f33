from __future__ import annotations

import asyncio
import io
import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polku import Batch, Hub, new_event
from polku.runtime.flow import Flow
from polku.runtime.status_line import StatusLine
from tests.support.server import POLKU, environment, polku

PIPELINE = """
import asyncio
from polku import Hub

async def partner(batch):
    await asyncio.sleep(0.4 * len(batch))

hub = Hub().emitter(partner)
"""


BLOCKING = """
import time
from polku import Hub

hub = Hub().emitter(lambda batch: time.sleep(20))
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_says_what_flows_and_what_a_drain_has_left() -> None:
    is_open = asyncio.Event()

    async def slow(batch: Batch) -> None:
        await is_open.wait()

    clock = Clock()
    flow = Flow(clock)
    with Hub(runtime="inline").emitter(slow, name="partner").start() as pipeline:
        assert flow.status(pipeline.statistics()) == "in 0/s  out 0/s  waiting 0"
        assert flow.left(pipeline.statistics()) == ""
        pipeline.sender().send([new_event("x", source="s") for _ in range(1_000)])
        clock.now = 2.0
        assert flow.status(pipeline.statistics()).startswith("in 500/s  out 0/s  waiting 1,000  oldest ")
        assert flow.left(pipeline.statistics()) == "1,000 events left; partner takes nothing of its 1,000"
        pipeline.stop(0.0)


def test_a_line_stays_below_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with StatusLine(shown=True) as status:
        status.show("in 5/s")
        print("a word", file=sys.stderr)
        logging.getLogger().warning("a log line")
        status.show("in 6/s")
    print("the end", file=sys.stderr)
    erase = "\r\x1b[2K"
    assert terminal.getvalue() == (f"in 5/s{erase}a word\nin 5/s{erase}a log line\nin 5/s{erase}in 6/s{erase}the end\n")
    assert handler.stream is terminal


def test_run_shows_on_a_terminal_what_flows_and_what_is_left_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PIPELINE)
    master, slave = os.openpty()
    command = [*POLKU, "run", str(tmp_path / "slow.py"), "--runtime=inline", "--grpc-addr=127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=environment(COLUMNS="200")) as process:
        os.close(slave)
        shown = read_until(master, "waiting 0")
        address = shown.split("ready on grpc ")[1].split()[0]
        records = "".join(f'{{"event_type": "t", "id": "{number}"}}\n' for number in range(8))
        assert polku("send", "-", "--to", address, text=records).returncode == 0
        read_until(master, "waiting 8")
        process.send_signal(signal.SIGTERM)
        shown = read_until(master, "events left; partner takes ")
        assert "\r\x1b[2Kpolku: draining\r\n" in shown
        assert "8 delivered" in read_until(master, "0 lost")
    os.close(master)


def test_run_shows_what_flows_while_user_code_blocks_the_event_loop(tmp_path: Path) -> None:
    (tmp_path / "blocking.py").write_text(BLOCKING)
    master, slave = os.openpty()
    command = [*POLKU, "run", str(tmp_path / "blocking.py"), "--runtime=inline", "--grpc-addr=127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave, env=environment(COLUMNS="200")) as process:
        os.close(slave)
        try:
            shown = read_until(master, "waiting 0")
            address = shown.split("ready on grpc ")[1].split()[0]
            assert polku("send", "--type", "t", "--to", address).returncode == 0
            read_until(master, "waiting 1  oldest 2")  # within one call of the emitter
        finally:
            process.kill()
    os.close(master)


def read_until(terminal: int, text: str) -> str:
    """Return what a terminal shows up to a text."""
    shown, limit = "", time.monotonic() + 60
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, limit - time.monotonic()))
        assert ready, shown
        shown += os.read(terminal, 65536).decode()
    return shown
