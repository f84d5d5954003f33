"""The process of a durable buffer is killed again and again: what it had answered for arrives, once more started."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.durable.process import said, start, wait_until_said

SEED = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1 << 30)


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    print(f"TEST_SEED={SEED}")
    chance = random.Random(SEED)
    in_flight = 0
    for life in range(8):
        if life % 3 == 1:
            (tmp_path / "two.hold").touch()
        elif life % 3 == 2:
            (tmp_path / "two.hold").unlink(missing_ok=True)
        begin, ready = life * 100_000, len(said(tmp_path, "ready")) if life else 0
        process = start(tmp_path, f"--start={begin}", f"--end={begin + 100_000}", "--sources=3")
        wait_until_said(tmp_path, "ready", ready + 1, process)
        time.sleep(chance.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        in_flight += len(said(tmp_path, "sent")) > len(said(tmp_path, "ack"))
    (tmp_path / "two.hold").unlink(missing_ok=True)
    last = start(tmp_path)
    wait_until_said(tmp_path, "closed", 1, last)
    sent, acknowledged = said(tmp_path, "sent"), said(tmp_path, "ack")
    assert in_flight >= 4, "the process died while nothing was under way"
    assert len(acknowledged) > 100
    assert said(tmp_path, "refused") == []
    for name in ("one", "two"):
        arrived = (tmp_path / name).read_text().split()
        assert set(acknowledged) <= set(arrived), f"seed {SEED}"
        assert set(arrived) <= set(sent)
        for source in "012":
            firsts = list(dict.fromkeys(event_id for event_id in arrived if event_id[0] == source))
            assert firsts == sorted(firsts), f"seed {SEED}"
