"""Lines that repeat: the first, then one a period with the number of those left out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import polku
from polku import Batch, Event
from polku.batch.receipt import Refusal
from polku.codes import Code
from polku.dead_letters import DeadLetters
from polku.log import RepeatedLog
from tests.support.clock import FakeClock

LOGGER = logging.getLogger("polku.test.log")


class Timers:
    """Timers that fire when the test says so."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def cancel(self) -> None: ...

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timers:
        self.waiting.append((self.clock.monotonic() + seconds, call))
        return self

    def fire(self) -> None:
        ((due, call),) = self.waiting
        self.waiting.clear()
        self.clock.advance(due - self.clock.monotonic())
        call()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timers(clock: FakeClock) -> Timers:
    return Timers(clock)


@pytest.fixture
def log(clock: FakeClock, timers: Timers, caplog: pytest.LogCaptureFixture) -> RepeatedLog:
    caplog.set_level(logging.INFO, "polku.test.log")
    return RepeatedLog(LOGGER, period=60, clock=clock.monotonic, call_later=timers.call_later)


def test_ten_thousand_lines_of_a_kind_are_two(
    log: RepeatedLog, clock: FakeClock, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10_000):
        log.warning("down", "no answer from %s: attempt %d", "host", number)
        clock.advance(0.001)
    timers.fire()
    assert caplog.messages == [
        "no answer from host: attempt 0",
        "no answer from host: attempt 9999 (the latest of 9,999 such lines in 60 s)",
    ]


def test_what_continues_is_written_once_a_period(
    log: RepeatedLog, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        for _ in range(50):
            log.error("down", "down")
        timers.fire()
    assert caplog.messages == [
        "down",
        "down (the latest of 49 such lines in 60 s)",
        "down (the latest of 50 such lines in 60 s)",
        "down (the latest of 50 such lines in 60 s)",
    ]


def test_a_line_after_a_quiet_period_is_written_at_once(
    log: RepeatedLog, clock: FakeClock, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    log.info("down", "down")
    clock.advance(61)
    log.info("down", "down again")
    assert caplog.messages == ["down", "down again"]
    assert not timers.waiting  # nothing repeated, so nothing waits


def test_kinds_are_counted_apart(log: RepeatedLog, caplog: pytest.LogCaptureFixture) -> None:
    for kind in "abab":
        log.warning(kind, "%s is down", kind)
    log.flush()
    assert caplog.messages == [
        "a is down",
        "b is down",
        "a is down (again within 1 s)",
        "b is down (again within 1 s)",
    ]


def test_more_kinds_than_are_remembered_lose_no_count(log: RepeatedLog, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("first", "first")
    log.warning("first", "first")
    for kind in range(1_000):
        log.warning(kind, "other")
    assert caplog.messages.count("first (again within 1 s)") == 1
    assert len(caplog.messages) == 1_002


def test_a_level_that_is_off_costs_and_counts_nothing(
    log: RepeatedLog, timers: Timers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "polku.test.log")
    for _ in range(3):
        log.info("quiet", "quiet")
    log.flush()
    assert caplog.messages == []
    assert not timers.waiting


def test_the_traceback_stands_at_the_first_line(log: RepeatedLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        try:
            raise ValueError("bug")
        except ValueError:
            log.exception("failed", "it failed")
    assert "ValueError: bug" in caplog.text
    assert caplog.text.count("Traceback") == 1


def test_the_count_is_written_when_the_process_ends() -> None:
    import subprocess
    import sys

    program = (
        "import logging; from polku.log import RepeatedLog; logging.basicConfig()\n"
        "log = RepeatedLog(logging.getLogger('x'))\n"
        "for n in range(5): log.warning('k', 'line %d', n)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True)
    assert done.stderr.splitlines() == [
        "WARNING:x:line 0",
        "WARNING:x:line 4 (the latest of 4 such lines in 1 s)",
    ]


async def test_ten_thousand_dead_letters_do_not_write_more_log_than_they_are(caplog: pytest.LogCaptureFixture) -> None:
    events = [Event(id=str(n)) for n in range(10_000)]
    refused = [Refusal(event.id, Code.UNDELIVERED, "no such table") for event in events]
    letters = DeadLetters()
    kept = letters.bury("warehouse-of-this-test", Batch.from_events(events), refused)
    assert kept is not None
    await kept
    assert letters.statistics().total == 10_000
    said = [message for message in caplog.messages if "warehouse-of-this-test" in message]
    assert said == ["dead letter for warehouse-of-this-test: event 0: UNDELIVERED: no such table; see `polku dlq list`"]


# Where lines are written without a `RepeatedLog`, and why they do not repeat.
ONCE = {
    "polku/actors/attachment.py": "at the start",
    "polku/buffer/journal_session.py": "when a journal is opened",
    "polku/buffer/journal.py": "when a journal is opened",
    "polku/buffer/place.py": "when a journal is opened",
    "polku/buffer/schema.py": "when a journal has another format",
    "polku/dead_letters/disk.py": "at the end",
    "polku/dead_letters/schema.py": "when a file has another format",
    "polku/external/plugin_emitter.py": "at the end",
    "polku/gateway/certificates.py": "when a file has changed",
    "polku/gateway/grpc_server.py": "at the start",
    "polku/gateway/grpcio.py": "at the start",
    "polku/gateway/pulling.py": "at the end",
    "polku/hooks.py": "at the end",
    "polku/monitoring/admin.py": "at the start",
    "polku/monitoring/run_files.py": "at the start",
    "polku/plugin/service.py": "at the end",
    "polku/security/authenticator.py": "when a file has changed",
    "polku/pipeline.py": "at the start",
    "polku/runtime/inline.py": "at the end",
    "polku/runtime/unstopped.py": "at the end",
    "polku/actors/drain.py": "at the end",
    "polku/actors/startup.py": "when a node is lost at the start",
    "polku/actors/lanes.py": "when a lane leaves",
    "polku/actors/scaler.py": "at each change of a number, which are seconds apart",
    "polku/actors/resizing.py": "when a change of replicas failed",
    "polku/actors/levelling.py": "when lanes were added",
    "polku/actors/node_drain.py": "when a node leaves",
    "polku/actors/node_watcher.py": "when a node comes or goes",
    "polku/actors/supervisor.py": "when an actor has died",
    "polku/actors/runtime.py": "at the start",
    "polku/actors/shell.py": "at the end",
}


def test_lines_that_can_repeat_are_written_by_a_repeated_log() -> None:
    root = Path(polku.__file__).parent
    direct = re.compile(r"\b(_?LOG|logger|logging)\.(debug|info|warning|error|exception|critical|log)\(")
    files = sorted([*root.glob("**/*.py"), *(root / "actors").glob("*.py")])
    repeated = re.compile(r"^_?LOG = RepeatedLog\(", re.MULTILINE)
    found = set()
    for path in files:
        text = path.read_text()
        imports_repeated = "import LOG" in text or repeated.search(text)
        if direct.search(text) and not imports_repeated:
            found.add(f"polku/{path.relative_to(root)}")
    assert found - ONCE.keys() == set()
