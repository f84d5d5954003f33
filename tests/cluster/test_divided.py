"""A step in partitions that are spread over three hosts, each with a lane, while these fail and its parts change."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from polku.stage.key_space import KeySpace
from tests.cluster.cluster import Cluster, cluster
from tests.cluster.faults import FAULTS, Fault, Outcome, run
from tests.cluster.hosts import Host, wait_until, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

PARTITIONS = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Have partitions by the source at first, so that each client is one key, and its order is kept."""
    folder = tmp_path_factory.mktemp("divided")
    with cluster(folder, nodes=3, buffer="durable", shape="divided", clients=6, changes=by_source(PARTITIONS)) as made:
        yield made


def by_source(partitions: int) -> dict[str, object]:
    return {"step": "throttle", "partitions": partitions}


def by_id(partitions: int) -> dict[str, object]:
    return {"step": "dedup", "partitions": partitions}


def partitions(made: Cluster) -> dict[int, Host]:
    """Return where each partition is, by its number from 0."""
    hosts = {host.address: host for host in made.hosts}
    found = {name: hosts[address] for name, address in made.actors().items() if "/partition-" in name}
    return {int(name.rpartition("-")[2]) - 1: host for name, host in found.items()}


def check(outcome: Outcome, *, ordered: bool) -> None:
    print(outcome)
    assert outcome.acknowledged > 1_000
    assert (outcome.lost, outcome.broken) == (0, 0), outcome
    assert not ordered or outcome.reordered == 0, outcome


def test_partitions_of_a_host_that_dies_come_back_elsewhere_and_other_keys_go_on(made: Cluster) -> None:
    before = partitions(made)
    assert set(before.values()) == set(made.hosts), "they are not spread over the hosts"
    victim = made.hosts[1]
    gone = {number for number, host in before.items() if host is victim}
    seen: dict[str, Any] = {}

    def kill(made: Cluster, host: Host) -> None:
        host.cut_power()
        wait_until(lambda: are_elsewhere(made, victim), "the partitions elsewhere", 120)
        time.sleep(2)
        seen.update(made.ask("look"))
        host.switch_on()
        made.start_ray(host)

    check(run(made, Fault("a host with partitions killed", kill), "durable"), ordered=True)
    space = KeySpace(PARTITIONS)
    staying = [client for name, client in seen["clients"].items() if name.startswith(("host-1", "host-3"))]
    pauses: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for client in staying:
        pause = seen["delivery pauses"][client["source"]], client["pause"]
        pauses[space.partition_of(client["source"]) in gone].append(pause)
    print(f"pauses of deliveries and of Acks: keys of the host {max(pauses[True])}, others {max(pauses[False])}")
    assert max(pauses[False])[0] < 0.75 * max(pauses[True])[0]  # a third, as a rule


def are_elsewhere(made: Cluster, victim: Host) -> bool:
    found = partitions(made)
    return len(found) == PARTITIONS and victim not in found.values()


@pytest.mark.parametrize(
    ("name", "after", "wanted"),
    [
        ("link lost 5 s", 1.0, PARTITIONS + 2),
        ("link lost 5 s", 4.0, PARTITIONS),
        ("node killed, back after 10 s", 3.0, 3),
    ],
)
def test_a_host_is_away_while_the_number_of_partitions_changes(
    name: str, after: float, wanted: int, made: Cluster
) -> None:
    said: list[str] = []

    def harm(made: Cluster, host: Host) -> None:
        made.change(**by_source(wanted))
        ends = made.reload()
        time.sleep(after)
        FAULTS[name].harm(made, host)
        said.append(ends())

    check(run(made, Fault(f"{name}, to {wanted} partitions", harm), "durable"), ordered=True)
    print(said)
    until_done(made)
    wait_until(lambda: len(partitions(made)) == wanted, "the other partitions")


def until_done(made: Cluster) -> None:
    """Reload until that is done, or has been: a host that has just come back may not have its lane yet."""
    said: list[str] = []
    deadline = time.monotonic() + 120
    while not said or said[-1] != "done":
        assert time.monotonic() < deadline, said
        said.append(made.reload()())


@pytest.mark.parametrize("name", ["node drained by Ray, then gone for 10 s", "node killed, back after 10 s"])
def test_what_partitions_have_of_a_host_that_goes_is_not_lost(name: str, made: Cluster) -> None:
    made.change(**by_id(PARTITIONS))
    until_done(made)
    check(run(made, FAULTS[name], "durable"), ordered=False)
    wait_until(lambda: len(partitions(made)) == PARTITIONS, "all partitions")
