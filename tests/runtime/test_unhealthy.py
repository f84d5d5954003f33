"""The lines of the log about parts that are unhealthy: why, what helps, and when they are well again."""

from __future__ import annotations

import logging
import re
import threading
import time

import pytest

from polku import Batch, Breaker, Hub, Resilience, Retry, RetryableError, new_event
from polku.health import DRAINING, Cause, Health
from polku.log import RepeatedLog
from polku.monitoring.picture import describe
from polku.runtime import inline
from polku.runtime.complaints import Complaints
from polku.runtime.unhealthy import UnhealthyParts
from polku.text import next_attempt


def lines(looks: str, caplog: pytest.LogCaptureFixture, name: str = "emitter:a") -> list[str]:
    """Return what is logged of looks once a second: `x` is unhealthy, `h` holds up others as well."""
    caplog.clear()
    parts = UnhealthyParts(RepeatedLog(logging.getLogger("polku.test")))
    with caplog.at_level(logging.INFO, "polku.test"):
        for second, sign in enumerate(looks):
            components = {"buffer": (True, "ok"), name: (sign == ".", "away")}
            holds = {name: "its share is full"} if sign == "h" else {}
            parts.look(
                Health(sign == ".", components, 0, holds=holds), lambda *_: "Repair it: nc -vz a 1", float(second)
            )
    return [record.getMessage() for record in caplog.records]


def test_a_line_says_what_is_wrong_and_what_helps_and_another_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    begins = "emitter:a is unhealthy: away. Repair it: nc -vz a 1"
    assert lines("x.x.x.", caplog) == []
    assert lines("xx", caplog) == lines("xxxxxxx", caplog) == lines("xx.xx.xx", caplog) == [begins]
    assert lines("xxxx...", caplog) == [begins, "emitter:a is well again, after 3 s"]


def test_of_a_process_that_has_ended_the_first_look_says_so(caplog: pytest.LogCaptureFixture) -> None:
    parts = UnhealthyParts(RepeatedLog(logging.getLogger("polku.test")))
    health = Health(False, {"stage-1": (False, "it has ended")}, 0, causes={"stage-1": Cause.ENDED})
    with caplog.at_level(logging.INFO, "polku.test"):
        parts.look(health, lambda *_: "", 0.0)
        parts.look(health, lambda *_: "", 1.0)
    assert caplog.messages == ["stage-1 is unhealthy: it has ended"]
    assert not parts.is_waiting


def test_that_a_pipeline_stops_as_it_should_is_no_illness(caplog: pytest.LogCaptureFixture) -> None:
    parts = UnhealthyParts(RepeatedLog(logging.getLogger("polku.test")))
    with caplog.at_level(logging.INFO, "polku.test"):
        for second in range(3):
            parts.look(Health(False, {"ingest": (False, DRAINING)}, 0), lambda *_: "", float(second))
    assert caplog.messages == []


def test_what_others_say_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    assert lines("hhhh...", caplog) == []  # back-pressure is told of
    assert lines("xxxx...", caplog, "reload") == []
    assert len(lines("xxx..." * 5, caplog)) == 2  # one that comes and goes


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, ""), (0.3, ""), (0.9, "next attempt in 1 s"), (75.0, "next attempt in 1 min 15 s")]
)
def test_an_attempt_that_comes_at_once_is_not_announced(seconds: float, text: str) -> None:
    assert next_attempt(seconds) == text


def test_a_pipeline_says_that_a_destination_is_away(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "_LOOK_SECONDS", 0.05)
    away = threading.Event()
    away.set()

    class Partner:
        name = "partner"
        url = "http://127.0.0.1:9/hook"

        def emit(self, batch: Batch) -> None:
            if away.is_set():
                raise RetryableError("refused")

    emitter = Resilience(
        Partner(), retry=Retry(first=0.01, limit=0.02), breaker=Breaker(failures=2, open_for=5.0, first=5.0)
    )
    with Hub(runtime="inline").emitter(emitter).start() as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        wait_for(caplog, "emitter:partner is unhealthy: ")
        (line,) = [text for text in caplog.messages if " is unhealthy: " in text]
        assert re.search(r"refused; next attempt in [1-5] s\. ", line)
        assert line.endswith(
            "What waits for it is kept, and sent once its destination takes events again. "
            "curl -sS -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:9"
        )
        away.clear()
        wait_for(caplog, "emitter:partner is well again, after ")


def wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    limit = time.monotonic() + 30
    while not any(text in message for message in caplog.messages):
        assert time.monotonic() < limit, caplog.messages
        time.sleep(0.02)


def test_the_next_look_is_sooner_while_something_is_about_to_be_said() -> None:
    complaints = Complaints()

    def looked(health: Health) -> float:
        complaints.note(health, lambda: describe(Hub(runtime="inline").emitter(print).plan("inline")), {})
        return complaints.until_next(1.0)

    unhealthy = Health(False, {"emitter:a": (False, "away")}, 0)
    full = Health(True, {"emitter:a": (True, "ok")}, 0, holds={"emitter:a": "its share is full"})
    assert looked(Health(True, {"emitter:a": (True, "ok")}, 0)) == 1.0
    assert looked(unhealthy) < 0.5
    assert looked(full) < 0.5
    assert complaints.until_next(0.1) == 0.1
