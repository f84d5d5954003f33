"""A log of the application that raises costs lines, and no events."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import logging, sys
from polku import Hub, new_event

def bad(event):
    raise ValueError("no")

class Failing(logging.Handler):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def emit(self, record):
        raise self.error

def fail(*arguments, **options):
    raise OSError("no record")

{setup}
pipeline = Hub(runtime="inline").middleware(bad).emitter(print, name="out").start()
codes = [pipeline.sender().send(new_event("x"), timeout=30).refused[0].code for _ in range(2)]
print(*codes, len(pipeline.dead_letters()), pipeline.stop().complete)
"""
SETUPS = {
    "a handler": ("logging.getLogger().addHandler(Failing(OSError('disk')))", "OSError: disk"),
    "a handler that exits": ("logging.getLogger().addHandler(Failing(SystemExit(9)))", "SystemExit: 9"),
    "a factory": ("logging.setLogRecordFactory(fail)", "OSError: no record"),
    "closed standard error": ("sys.stderr.close()", ""),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_a_log_that_raises_costs_no_event_its_answer(setup: str) -> None:
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(setup=SETUPS[setup][0])],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "MIDDLEWARE_ERROR MIDDLEWARE_ERROR 2 True\n"
    told = "polku: the log of this program raises, and lines are lost: "
    assert done.stderr.count(told) == bool(SETUPS[setup][1])
    assert f"{told}{SETUPS[setup][1]}" in done.stderr or not SETUPS[setup][1]
