"""The end of `polku serve` and `polku run`: what is lost, and signals at any time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.programs import DOWN
from tests.external.test_ingest import eventually
from tests.support.server import Server, polku


def run_down(folder: Path, name: str, *arguments: str, **variables: str) -> Server:
    (folder / "pipeline.py").write_text(DOWN.replace('durable("', f'durable("{folder}/'))
    where = ("--runtime", "inline", "--grpc-addr", "127.0.0.1:0")
    return Server(folder, "run", f"{folder}/pipeline.py:{name}", *where, *arguments, **variables)


def send_one(server: Server) -> None:
    assert polku("send", "--to", server.address, "--type", "x").returncode == 0


@pytest.mark.parametrize(("option", "variable"), [("0.2", ""), ("", "0.2")])
def test_a_stop_that_loses_acknowledged_events_says_so_and_ends_with_status_3(
    option: str, variable: str, tmp_path: Path
) -> None:
    arguments = ("--drain", option) if option else ()
    server = run_down(tmp_path, "memory", *arguments, POLKU_DRAIN_SECONDS=variable)
    send_one(server)
    assert server.stop() == 3
    last = server.err.read_text().splitlines()[-1]
    assert last == "polku: acknowledged events are lost: 1 of emitter out; exit status 3"


def test_a_stop_with_a_journal_ends_as_soon_as_only_destinations_that_are_down_are_waited_for(tmp_path: Path) -> None:
    server = run_down(tmp_path, "durable", "--drain", "3600")
    send_one(server)
    assert server.stop() == 0
    assert "0 lost, 1 journaled" in server.err.read_text()


def test_sighup_is_left_alone_where_it_is_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; programs that are started inherit it
    try:
        ignoring = run_down(tmp_path, "at_once")
    finally:
        signal.signal(signal.SIGHUP, before)
    ignoring.process.send_signal(signal.SIGHUP)
    send_one(ignoring)
    assert "draining" not in ignoring.err.read_text()
    assert ignoring.stop() == 0


def test_sighup_drains_what_has_no_file_to_load_again_and_says_why(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests may have it ignored
    try:
        server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0")
    finally:
        signal.signal(signal.SIGHUP, before)
    server.process.send_signal(signal.SIGHUP)
    assert server.process.wait(30) == 0
    assert "polku: draining: SIGHUP, and there is no pipeline file to load again; start it" in server.err.read_text()


SLOW_START = """
import asyncio, pathlib
from polku import Hub

class Slow:
    name = "slow"
    async def start(self):
        pathlib.Path({mark!r}).touch()
        await asyncio.sleep(1)
    async def emit(self, batch):
        pass

hub = Hub().emitter(Slow())
"""


def test_a_signal_while_the_pipeline_starts_ends_it_in_order(runtime: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    mark = tmp_path / "starting"
    file.write_text(SLOW_START.format(mark=str(mark)))
    command = [sys.executable, "-m", "polku", "run", str(file), "--runtime", runtime, "--grpc-addr", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            eventually(mark.exists, 120)
            process.terminate()
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
        assert process.returncode == 0, said
    assert "polku: stopped" in said
