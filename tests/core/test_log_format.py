"""Lines of the log in both formats: what strangers say forges none of them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from polku.log import RepeatedLog
from polku.log_format import JsonFormatter, Origin, TextFormatter, as_object, name_process

LOGGER = logging.getLogger("polku.gateway.test")
HOSTILE = "x\x1b[2J\n2026-01-01 ERROR forged\u202e\x9b\udc80\x7f"


class Kept(logging.Handler):
    """Keep each line as both formats write it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.objects: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(TextFormatter("%(levelname)s %(name)s: %(message)s").format(record))
        line = JsonFormatter().format(record)
        assert line.isascii()
        assert line.isprintable()
        self.objects.append(json.loads(line))


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    name_process(Origin("orders", "lane-2", "", "node-7"))
    yield handler
    name_process(Origin())
    LOGGER.removeHandler(handler)


def test_what_strangers_say_is_escaped_and_cannot_begin_a_line(kept: Kept) -> None:
    LOGGER.warning("event %s is odd", HOSTILE)
    (text,), (line,) = kept.texts, kept.objects
    first, second = text.splitlines()
    assert first == "WARNING polku.gateway.test: event x\\x1b[2J"
    assert second == "  | 2026-01-01 ERROR forged\\u202e\\x9b\\udc80\\x7f is odd"
    assert line["message"] == "event x\\x1b[2J\n2026-01-01 ERROR forged\\u202e\\x9b\\udc80\\x7f is odd"


def test_an_object_says_whose_line_it_is(kept: Kept) -> None:
    log = RepeatedLog(LOGGER)
    log.error("kind", "it failed", component="emitter:partner", event_id="a", trace_id="0af7")
    (line,) = kept.objects
    assert line.pop("time").endswith("Z")
    assert line.pop("pid") > 0
    assert line == {
        "level": "error",
        "logger": "polku.gateway.test",
        "message": "it failed",
        "component": "emitter:partner",
        "pipeline": "orders",
        "lane": "lane-2",
        "node": "node-7",
        "event_id": "a",
        "trace_id": "0af7",
    }


def test_the_part_of_a_process_counts_before_that_of_a_line(kept: Kept) -> None:
    LOGGER.info("of the gateway")
    name_process(Origin(component="stage-1"))
    LOGGER.info("of a stage")
    assert [line["component"] for line in kept.objects] == ["ingest", "stage-1"]


def test_an_exception_is_apart_from_its_message(kept: Kept) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        RepeatedLog(LOGGER).exception("kind", "it failed")
        LOGGER.exception("it failed")
    for line in kept.objects:
        assert line["message"] == "it failed"
        assert line["error"].startswith("Traceback (most recent call last):\n")
        assert "ValueError: x\\x1b[2J\n2026-01-01 ERROR forged\\u202e\\x9b\\udc80\\x7f" in line["error"]
    for text in kept.texts:
        assert all(line.startswith("  | ") for line in text.splitlines()[1:])


def test_lines_that_repeat_have_a_count(kept: Kept) -> None:
    log = RepeatedLog(LOGGER)
    for number in range(5):
        log.warning("kind", "number %d", number, event_id=str(number))
    log.flush()
    first, last = kept.objects
    assert (first["message"], first["event_id"]) == ("number 0", "0")
    assert (last["event_id"], last["count"], last["seconds"]) == ("4", 4, 1)


def test_what_was_printed_becomes_an_object() -> None:
    line = json.loads(as_object(HOSTILE, "info", "worker", actor="StageShell"))
    assert line["message"] == "x\\x1b[2J\n2026-01-01 ERROR forged\\u202e\\x9b\\udc80\\x7f"
    assert (line["level"], line["logger"], line["actor"]) == ("info", "worker", "StageShell")


@pytest.mark.parametrize("kind", ["configure_worker({})", "configure('warn', 'text')"])
def test_lines_in_a_file_have_their_time_and_no_colours(kind: str) -> None:
    code = (
        f"import logging, os; from polku.log_format import *; {kind}; logging.getLogger('polku.x').warning('it %d', 7)"
    )
    code += "; print(os.environ.get('RAY_COLOR_PREFIX', '0'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING polku\.x: it 7\n", done.stderr)
    assert done.stdout == "0\n"
