"""A small message takes no more calls of functions until its Ack than it does today, however slow the machine is."""

from __future__ import annotations

import re
import subprocess
import sys

MOST = {"unary, one event": (320, 230), "stream, a message of ten": (390, 230)}
"""Calls until the Ack, and after it: a tenth more than are counted, as Pythons differ."""


def test_the_calls_until_an_ack_are_listed_and_no_more_than_they_were() -> None:
    command = [sys.executable, "-m", "tests.bench.calls"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"^(unary|stream)(.*)\n\n(?:\|.*\n)+?\| all \| (\d+) \| \d+ \| (\d+) \|", done.stdout, re.MULTILINE
    )
    counted = {kind + rest: (int(before), int(after)) for kind, rest, before, after in found}
    assert counted.keys() == MOST.keys()
    for shape, (before, after) in counted.items():
        assert 100 < before <= MOST[shape][0], shape
        assert 50 < after <= MOST[shape][1], shape
    assert "| polku/http2 |" in done.stdout
