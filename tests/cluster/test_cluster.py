"""A pipeline with a lane on each of four hosts, under load from a fifth, while these fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, cluster
from tests.cluster.faults import FAULTS, run
from tests.cluster.hosts import wait_until, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for all tests of a kind of buffer; it ends before that of the next kind begins."""
    with cluster(tmp_path_factory.mktemp(request.param), buffer=request.param) as made:
        yield made


@pytest.mark.parametrize("made", ["durable"], indirect=True)
@pytest.mark.parametrize("name", list(FAULTS))
def test_with_journals_nothing_acknowledged_is_lost_whatever_becomes_of_a_host(name: str, made: Cluster) -> None:
    assert len(made.hosts) == 4
    assert made.outside not in made.hosts
    outcome = run(made, FAULTS[name], "durable")
    print(outcome)
    assert outcome.acknowledged > 1_000
    assert (outcome.lost, outcome.reordered, outcome.broken) == (0, 0, 0), outcome


@pytest.mark.parametrize("made", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("name", "most_lost"),
    [
        ("node drained by Ray, then gone for 10 s", 0),
        ("200 ms delay, 30 s", 0),
        ("node killed, back after 10 s", 1_000),  # a moment's worth
        ("link lost 5 s", 1_000),
        ("head killed, back after 10 s", 1_000),
    ],
)
def test_in_memory_only_what_a_lost_host_held_is_lost(name: str, most_lost: int, made: Cluster) -> None:
    outcome = run(made, FAULTS[name], "memory")
    print(outcome)
    assert outcome.acknowledged > 1_000
    assert outcome.lost <= most_lost, outcome
    assert (outcome.reordered, outcome.broken) == (0, 0), outcome


def test_the_pipeline_stops_before_the_node_of_its_program_goes(tmp_path: Path) -> None:
    with cluster(tmp_path, nodes=1, buffer="memory") as made:
        wait_until(lambda: made.ask("look")["verdict"]["acknowledged"] > 1_000, "events")
        made.drain(made.head, 60)
        wait_until(lambda: "polku: stopped after" in made.log(), "the end of the pipeline")
        assert "polku: Ray drains this node" in made.log()
        seen = made.ask("look")["verdict"]
        assert (seen["lost"], seen["invented"], seen["corrupted"]) == (0, 0, 0), seen
