"""What becomes of a pipeline whose program ends, or is interrupted, before it was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polku import Hub, SettingError

START = """
import asyncio, atexit, os, signal, sys, threading, time
from polku import Hub, new_event

gate = threading.Event()

def quick(batch):
    time.sleep(0.2)
    print("delivered", len(batch), flush=True)

async def stuck(batch):
    await asyncio.sleep(600)

def blocked(batch):
    gate.wait(600)

def start(emitter):
    pipeline = Hub(runtime="inline", name="p").emitter(emitter, name="out").start()
    assert pipeline.sender().send(new_event("x", id="1"), timeout=30).ok
    return pipeline
"""


def ran(code: str) -> tuple[str, str]:
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, done.stderr


LOST = "pipeline p was not stopped before the end of the program: acknowledged events are lost: 1 of emitter out\n"


def test_a_program_that_ends_without_a_stop_delivers_what_it_can() -> None:
    assert ran("start(quick)") == ("delivered 1\n", "")
    assert ran("start(quick); sys.exit(0)") == ("delivered 1\n", "")


@pytest.mark.parametrize("emitter", ["stuck", "blocked"])
def test_a_program_that_ends_without_a_stop_says_what_is_lost_by_that(emitter: str) -> None:
    out, err = ran(f"start({emitter})")
    assert out == ""
    assert err.endswith(LOST)


def test_a_pipeline_works_in_threads_also_as_the_program_ends() -> None:
    code = """
async def threaded(batch):
    await asyncio.sleep(0.5)
    await asyncio.to_thread(print, "delivered", len(batch))

pipeline = start(threaded)
"""
    assert ran(code) == ("delivered 1\n", "")


def test_a_call_in_a_thread_that_hangs_does_not_keep_the_program_from_ending() -> None:
    code = """
async def hung(batch):
    await asyncio.to_thread(time.sleep, 3600)

start(hung)
"""
    assert ran(code) == ("", LOST)


def test_a_program_that_stops_its_pipeline_as_it_ends_says_nothing() -> None:
    code = "atexit.register(lambda: print(pipeline.stop().complete)); pipeline = start(quick)"
    assert ran(code) == ("delivered 1\nTrue\n", "")
    code = "pipeline = start(quick); atexit.register(lambda: print(pipeline.stop().complete))"
    assert ran(code) == ("delivered 1\nTrue\n", "")


def test_a_stop_that_was_interrupted_is_reported_and_not_waited_for_again() -> None:
    code = """
pipeline = start(stuck)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    pipeline.stop()
except KeyboardInterrupt:
    print("interrupted")
"""
    out, err = ran(code)
    assert (out, err) == ("interrupted\n", LOST)


def test_a_start_that_is_interrupted_leaves_nothing_that_runs() -> None:
    code = """
class Slow:
    async def start(self):
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(1)

    def emit(self, batch):
        pass

try:
    Hub(runtime="inline").emitter(Slow()).start()
except KeyboardInterrupt:
    print("interrupted")
time.sleep(2)  # longer than the start would take
print([thread.name for thread in threading.enumerate() if thread.name == "polku-watch"])
"""
    assert ran(code) == ("interrupted\n[]\n", "")


def test_a_pipeline_that_is_started_as_the_program_ends_is_one_sentence() -> None:
    code = """
def late():
    try:
        start(quick)
    except Exception as error:
        print(type(error).__name__, error)

atexit.register(late)
"""
    out, err = ran(code)
    assert err == ""
    assert out == "delivered 1\n" or out.startswith("NotRunningError the event loop of pipelines cannot be started (")


def test_after_run_the_signals_are_the_program_s_again() -> None:
    code = """
def mine(number, frame):
    print("mine", flush=True)

def end():
    while signal.getsignal(signal.SIGTERM) is mine:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

signal.signal(signal.SIGTERM, mine)
before = signal.getsignal(signal.SIGINT)
threading.Thread(target=end).start()
Hub(runtime="inline").emitter(quick).run(grpc_addr="127.0.0.1:0", admin_addr="off")
print(signal.getsignal(signal.SIGTERM) is mine, signal.getsignal(signal.SIGINT) is before)
os.kill(os.getpid(), signal.SIGTERM)
"""
    out, err = ran(code)
    assert "polku: draining" in err
    assert out == "True True\nmine\n"


def test_a_relative_path_in_a_directory_that_was_deleted_is_refused_with_what_to_do(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"""
from polku import BufferStrategy
os.chdir({str(gone)!r})
os.rmdir({str(gone)!r})
for wrong in (lambda: BufferStrategy.durable("j.db"), lambda: Hub().dead_letters("d.db")):
    try:
        wrong()
    except Exception as error:
        print(type(error).__name__, error)
"""
    told = "is relative to the working directory of this program, which was deleted; write an absolute path"
    assert ran(code) == (f"PlanError path 'j.db' {told}\nPlanError path 'd.db' {told}\n", "")


@pytest.mark.parametrize("door", ["grpc_addr", "http_addr", "admin_addr"])
def test_a_path_that_is_too_long_for_a_socket_says_how_long_it_may_be(door: str) -> None:
    address = f"unix:/tmp/{'x' * 150}"
    told = rf"^{door}='unix:/tmp/x+': a path of 155 bytes is too long for a Unix socket, which may have 10[37]; choose"
    with pytest.raises(SettingError, match=told):
        Hub(runtime="inline").emitter(print).start(**{door: address})


def test_run_outside_of_the_main_thread_is_refused_with_what_to_do() -> None:
    code = """
def work():
    try:
        Hub(runtime="inline").emitter(quick).run(grpc_addr="127.0.0.1:0")
    except Exception as error:
        print(type(error).__name__, error)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    told = "PipelineError run waits for signals, of which only the main thread is told; elsewhere use start and stop\n"
    assert ran(code) == (told, "")
