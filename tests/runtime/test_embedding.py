"""A pipeline inside an application whose code blocks, stops or forks what the pipeline runs on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polku import Batch, BufferStrategy, Event, Hub, Pipeline, new_event
from tests.support.recorder import Recorder


def stop_soon(event: Event) -> None:
    asyncio.get_running_loop().stop()


async def stop_and_wait(event: Event) -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)


@pytest.mark.parametrize("function", [stop_soon, stop_and_wait])
def test_user_code_that_stops_the_event_loop_ends_nothing(
    function: Callable[[Event], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "out")
    pipeline = Hub(runtime="inline").middleware(function).emitter(recorder).start()
    for number in range(2):
        assert pipeline.sender().send(new_event("x", id=str(number)), timeout=30).ok
    assert [event.id for event in recorder.wait_for(2)] == ["0", "1"]
    assert pipeline.stop_nowait().result(60).complete
    assert "user code has stopped the event loop: it continues" in caplog.text


async def cancel_all(event: Event) -> None:
    if event.id == "cancels":
        for task in asyncio.all_tasks():
            task.cancel()


def test_user_code_that_cancels_all_tasks_of_the_event_loop_ends_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    with Hub(runtime="inline").middleware(cancel_all).emitter(recorder).start() as pipeline:
        sender = pipeline.sender()
        assert sender.send(new_event("x", id="a"), timeout=30).ok
        recorder.wait_for(1)
        with pytest.raises(concurrent.futures.CancelledError):
            sender.send(new_event("x", id="cancels"), timeout=30)
        assert sender.send(new_event("x", id="b"), timeout=30).ok
        assert [event.id for event in recorder.wait_for(2)] == ["a", "b"]


CALLS: dict[str, Callable[[Pipeline], object]] = {
    "await sender.send_async": lambda pipeline: pipeline.sender().send(new_event("y")),
    "await pipeline.stop_async": lambda pipeline: pipeline.stop(),
    "ask from another thread": lambda pipeline: pipeline.dead_letters(),
}


@pytest.mark.parametrize("instead", CALLS)
def test_what_would_wait_for_itself_is_refused_with_what_to_do(instead: str) -> None:
    with (
        Hub(runtime="inline", name="other").emitter(lambda batch: None).start() as other,
        Hub(runtime="inline").middleware(lambda event: CALLS[instead](other) and None).emitter(print).start() as one,
    ):
        (refusal,) = one.sender().send(new_event("x"), timeout=30).refused
        assert f"with every pipeline of the process; {instead}" in refusal.message
        assert other.sender().send(new_event("x"), timeout=30).ok


def test_an_emitter_that_would_wait_for_itself_makes_dead_letters() -> None:
    with Hub(runtime="inline", name="other").emitter(lambda batch: None).start() as other:

        def pass_on(batch: Batch) -> None:
            other.sender().send(batch)

        pipeline = Hub(runtime="inline").emitter(pass_on).start()
        assert pipeline.sender().send(new_event("x", id="a"), timeout=30).ok
        assert pipeline.stop().emitters["pass_on"].dead == 1
        (letter,) = pipeline.dead_letters()
        assert "await sender.send_async" in letter.reason


@pytest.mark.parametrize("wrong", ["abc", b"abc", [None], [new_event("x"), "b"], [[new_event("x")]], {"id": "a"}])
def test_a_sender_names_what_is_no_event_and_sends_nothing(wrong: Any) -> None:
    with Hub(runtime="inline").emitter(lambda batch: None).start() as pipeline:
        with pytest.raises(TypeError, match=r"(?s)send takes an Event, or Events in an iterable, and .+ is none"):
            pipeline.sender().send(wrong)
        assert pipeline.stop().emitters["function"].delivered == 0


FORKED = """
import os
import sys
from polku import Hub, new_event
from polku.errors import NotRunningError

def refusal(call):
    try:
        return str(call())
    except NotRunningError as error:
        return str(error).split(":")[0].replace(str(pipeline._process), "N")

got = []
with Hub(runtime="inline").emitter(lambda batch: got.extend(batch.ids)).start(http_addr="127.0.0.1:0") as pipeline:
    sender = pipeline.sender()
    assert sender.send(new_event("x", id="a")).ok
    child = os.fork()
    if not child:
        print(refusal(lambda: sender.send(new_event("x", id="b"))))
        print(refusal(pipeline.stop))
        assert pipeline.http_address
        with Hub(runtime="inline").emitter(lambda batch: print(batch.ids)).start() as own:
            assert own.sender().send(new_event("x", id="c")).ok
        print("left", flush=True)
        sys.exit()
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
    assert sender.send(new_event("x", id="d")).ok
print(got)
"""


def test_a_fork_is_told_that_it_has_no_pipeline_and_may_have_its_own(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORKED)
    # A fork of a process with uvloop ends itself in libuv's clean-up, when all is done.
    environment = {**os.environ, "POLKU_LOOP": "asyncio", "PYTHONWARNINGS": "ignore"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=240)
    refused = "the pipeline runs in process N, of which this one is a fork"
    assert done.stdout.splitlines() == [refused, refused, "['c']", "left", "['a', 'd']"], done.stderr


STAYS = """
import json
import os
import signal
import sys
import time
from polku import BufferStrategy, Hub, new_event

ports = {name: "127.0.0.1:0" for name in ("grpc_addr", "http_addr", "admin_addr")}
hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.durable("journal.db")).emitter(lambda batch: None)
pipeline = hub.start(**ports)
assert pipeline.sender().send(new_event("x")).ok
child = os.fork()
if not child:
    os.close(1)
    time.sleep(600)
print(json.dumps([child, pipeline.address, pipeline.http_address, pipeline.admin_address]), flush=True)
if sys.argv[1] == "stop":
    pipeline.stop()
else:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("loop", ["", "asyncio"])
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_fork_that_stays_keeps_neither_ports_nor_the_journal(end: str, loop: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(STAYS)
    environment = {
        **os.environ,
        "POLKU_LOOP": loop,
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "program.py", end]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, timeout=240)
    child, *addresses = json.loads(done.stdout)
    try:
        for host, port in (address.split(":") for address in addresses):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)), timeout=30)
        journal = BufferStrategy.durable(tmp_path / "journal.db")
        with Hub(runtime="inline").buffer_strategy(journal).emitter(lambda batch: None).start() as pipeline:
            assert pipeline.sender().send(new_event("x"), timeout=30).ok
    finally:
        os.kill(child, signal.SIGKILL)
