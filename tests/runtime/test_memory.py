"""A process that has become quiet gives its memory back, and an actor keeps what its batches need until then."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from polku.runtime.memory import Quiet

BURST = """
import re, time
from polku.runtime.serving import tune_process

def private_mb():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1000

tune_process()
tune_process()
blobs = [bytes(1000) for _ in range(100_000)]
last = bytes(1000)  # above them all: what is freed below it stays with the process
end = time.process_time() + 0.6
while time.process_time() < end:
    pass
blobs.clear()
high = private_mb()
until = time.monotonic() + 30
while private_mb() > high - 80 and time.monotonic() < until:
    time.sleep(0.1)
import threading
print(high, private_mb(), [thread.name for thread in threading.enumerate()].count("polku-memory"))
"""


KEPT = """
import resource
from polku.runtime.memory import keep_until_quiet

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [bytearray(b"x") * 1_000_000 for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
keep_until_quiet()
faults()
print(before, faults())
"""


def test_it_is_quiet_once_after_each_piece_of_work() -> None:
    quiet = Quiet(10.0)
    assert not quiet.has_come(10.01)  # nothing worth it was done
    assert not quiet.has_come(11.0)  # busy
    assert not quiet.has_come(11.06)
    assert quiet.has_come(11.07)
    assert not quiet.has_come(11.08)
    assert not quiet.has_come(11.6)
    assert quiet.has_come(11.61)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library gives no memory back")
def test_what_a_burst_needed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", BURST], capture_output=True, text=True, check=True)
    high, low, threads = done.stdout.split()
    assert float(high) > 90
    assert float(low) < float(high) - 80
    assert threads == "1"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library always gives memory back")
def test_large_blocks_are_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    if before < 10_000:  # of 160 blocks of 244 pages
        pytest.skip(f"memory is kept, or pages are large, without it: {before} page faults")
    assert after < 1_000
