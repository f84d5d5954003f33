"""A short run of the chaos of `make chaos`, with a seed: every kind of harm is drawn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.driver import Chaos


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("runtime", "seconds"), [("inline", 15), ("ray", 25)])
def test_nothing_acknowledged_is_lost_whatever_dies(runtime: str, seconds: float, tmp_path: Path) -> None:
    outcome = Chaos(tmp_path, runtime, "durable", seed=20261123).run(seconds)
    print(outcome)
    outcome.verdict.check()
    assert outcome.verdict.acknowledged > 1_000
    assert outcome.faults_in_flight > 0
    assert sum(count for kind, count in outcome.faults.items() if kind.startswith("SIGKILL")) > 0
    assert outcome.resent > 0
