"""A pipeline with a lane on each of three hosts, while these fail; `python -m tests.cluster` does more to it."""

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
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("durable"), nodes=3, buffer="durable") as made:
        yield made


@pytest.mark.parametrize(
    "name",
    [
        "link lost 5 s",
        "20 % of packets lost, 30 s",
        "node drained by Ray, then gone for 10 s",
        "Ray stopped there (SIGTERM), started again",
        "node killed, back after 10 s",
        "head killed, back after 10 s",
    ],
)
def test_with_journals_nothing_acknowledged_is_lost_whatever_becomes_of_a_host(name: str, durable: Cluster) -> None:
    outcome = run(durable, FAULTS[name], "durable")
    print(outcome)
    assert outcome.acknowledged > 1_000
    assert (outcome.lost, outcome.reordered, outcome.broken) == (0, 0, 0), outcome


def test_in_memory_only_what_a_lost_host_held_is_lost(tmp_path: Path) -> None:
    with cluster(tmp_path, nodes=3, buffer="memory") as made:
        drained = run(made, FAULTS["node drained by Ray, then gone for 10 s"], "memory")
        assert (drained.lost, drained.reordered, drained.broken) == (0, 0, 0), drained
        killed = run(made, FAULTS["node killed, back after 10 s"], "memory")
        print(drained, killed, sep="\n")
        assert killed.acknowledged > 1_000
        assert killed.lost < 1_000  # a moment's worth
        assert (killed.reordered, killed.broken) == (0, 0), killed


def test_the_pipeline_stops_before_the_node_of_its_program_goes(tmp_path: Path) -> None:
    with cluster(tmp_path, nodes=1, buffer="memory") as made:
        wait_until(lambda: made.ask("look")["verdict"]["acknowledged"] > 1_000, "events")
        made.drain(made.head, 60)
        wait_until(lambda: "polku: stopped after" in made.log(), "the end of the pipeline")
        assert "polku: Ray drains this node" in made.log()
        seen = made.ask("look")["verdict"]
        assert (seen["lost"], seen["invented"], seen["corrupted"]) == (0, 0, 0), seen
