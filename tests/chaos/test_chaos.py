"""A short run of the chaos of `make chaos`, with a seed: every kind of harm is drawn from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polku.actors import buffer, emitter, ingest, stage, supervisor
from tests.chaos.driver import SHELLS, Chaos, shell_of


@pytest.mark.parametrize("kind", [*SHELLS, "buffer"])
def test_there_is_a_part_of_each_kind_that_is_killed(kind: str) -> None:
    assert any(hasattr(module, shell_of(kind)) for module in (buffer, emitter, ingest, stage, supervisor))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("runtime", "seconds", "seed"),
    [
        ("inline", 4, 74),
        ("ray", 6, 135),
        pytest.param("inline", 30, 74, marks=pytest.mark.slow),
        pytest.param("ray", 30, 135, marks=pytest.mark.slow),
    ],
)
def test_nothing_acknowledged_is_lost_whatever_dies(runtime: str, seconds: float, seed: int, tmp_path: Path) -> None:
    # With these seeds what clients talk to dies first, so that they have to send again, and a reload is next.
    outcome = Chaos(tmp_path, runtime, "durable", seed=seed).run(seconds)
    print(outcome)
    outcome.verdict.check()
    assert outcome.verdict.acknowledged > 1_000
    assert outcome.faults_in_flight > 0
    assert sum(count for kind, count in outcome.faults.items() if kind.startswith("SIGKILL")) > 0
    assert outcome.resent > 0
    if seconds > 10:
        assert outcome.faults.get("reload", 0) > 0, "each was refused"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_lost_requests_and_replies_between_actors_lose_and_double_nothing(seconds: float, tmp_path: Path) -> None:
    losses = {"num_failures": 300, "req_failure_prob": 4, "resp_failure_prob": 4}
    setting = json.dumps({"CoreWorkerService.grpc_client.PushTask": losses})
    chaos = Chaos(tmp_path, "ray", "ring", seed=7, RAY_testing_rpc_failure=setting, POLKU_HOPS="ray", BARE_LOGS="1")
    outcome = chaos.run(seconds, pause=0)
    print(outcome)
    again = (tmp_path / "pipeline.log").read_text().count("is sent again")
    assert again > 0
    outcome.verdict.check(duplicates=False)
    assert outcome.verdict.acknowledged > 1_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_while_lanes_come_and_go_and_parts_die(tmp_path: Path) -> None:
    outcome = Chaos(tmp_path, "ray", "durable", seed=12, lanes=3).run(60)
    print(outcome)
    outcome.verdict.check(order=False)
    assert outcome.verdict.acknowledged > 1_000
    assert sum(count for kind, count in outcome.faults.items() if kind.startswith("lanes")) > 1
