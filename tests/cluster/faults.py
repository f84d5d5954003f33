"""What can go wrong with a host, how long it does, and what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.cluster.cluster import Cluster
from tests.cluster.hosts import Host, wait_until

_RECOVERY_SECONDS = 240.0
_CALM_SECONDS = 30.0  # a node that was believed to be dead ends only when it learns of that: 13 s later, for one


class Fault(NamedTuple):
    """Something that goes wrong with one host: `harm` returns when it is over."""

    name: str
    harm: Callable[[Cluster, Host], None]
    is_of_head: bool = False

    def victim(self, cluster: Cluster) -> Host:
        """Return the host that it happens to."""
        return cluster.head if self.is_of_head else cluster.hosts[1]


class Outcome(NamedTuple):
    """What came of a fault: pauses in seconds, and counts of events.

    `own_pause` is the longest one between two Acks of the client of the host that it happened to, `others_pause` of
    the clients of other hosts, `roaming_pause` of those that turn to the next host; `delivery_pause` that of
    deliveries over the network. `recovered` is how long after the end of the fault every client had Acks again.
    """

    fault: str
    buffer: str
    own_pause: float
    others_pause: float
    roaming_pause: float
    delivery_pause: float
    recovered: float
    acknowledged: int
    lost: int
    duplicates: int
    reordered: int
    broken: int
    errors: dict[str, int]

    def __str__(self) -> str:
        seen = ", ".join(f"{name} ×{count}" for name, count in sorted(self.errors.items())) or "none"
        pauses = (self.own_pause, self.others_pause, self.roaming_pause, self.delivery_pause, self.recovered)
        cells = [self.fault, self.buffer, *(f"{pause:.1f}" for pause in pauses)]
        return f"| {' | '.join([*cells, str(self.lost), str(self.duplicates), str(self.reordered), seen])} |"


HEADER = (
    "| fault | buffer | its client | other clients | roaming | deliveries | recovered | lost | twice | reordered "
    "| errors |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def power(cluster: Cluster, host: Host) -> None:
    """Kill every process of a host, and start it again after ten seconds."""
    host.cut_power()
    time.sleep(10)
    host.switch_on()
    cluster.start_ray(host)
    if host is cluster.head:
        wait_until(lambda: cluster.nodes(), "the head", 120)
        cluster.start_pipeline()


def link(seconds: float) -> Callable[[Cluster, Host], None]:
    """Return the loss of a host's link for so long."""

    def lose(cluster: Cluster, host: Host) -> None:
        host.unplug()
        time.sleep(seconds)
        host.plug()

    return lose


def cut_off(seconds: float) -> Callable[[Cluster, Host], None]:
    """Return the loss of the way between a host and the head only, for so long: clients still reach it."""

    def lose(cluster: Cluster, host: Host) -> None:
        for chain, side in (("INPUT", "-s"), ("OUTPUT", "-d")):
            host.run("iptables", "-A", chain, side, cluster.head.address, "-j", "DROP")
        time.sleep(seconds)
        host.run("iptables", "-F")

    return lose


def disturbed(seconds: float, *, loss: float = 0.0, delay: float = 0.0) -> Callable[[Cluster, Host], None]:
    """Return a bad line for so long."""

    def disturb(cluster: Cluster, host: Host) -> None:
        host.disturb(loss=loss, delay=delay)
        time.sleep(seconds)
        host.calm()

    return disturb


def slow(seconds: float, share: float) -> Callable[[Cluster, Host], None]:
    """Return a host that has a share of its processor time only."""

    def slow_down(cluster: Cluster, host: Host) -> None:
        host.slow(share)
        time.sleep(seconds)
        host.calm()

    return slow_down


def drain(cluster: Cluster, host: Host) -> None:
    """Have Ray drain the node of a host, take its machine away once it serves nobody, and start it again."""
    cluster.drain(host, 40)
    wait_until(lambda: host not in cluster.open_gateways(), "the lane to leave its node", 40)
    time.sleep(5)
    power(cluster, host)


def stop(cluster: Cluster, host: Host) -> None:
    """Stop Ray on a host with SIGTERM, by which it drains its node itself, and have it start again."""
    cluster.stop_ray(host)


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("link lost 5 s", link(5)),
        Fault("link lost 30 s", link(30)),
        Fault("link lost 120 s", link(120)),
        Fault("cut off from the head 30 s", cut_off(30)),
        Fault("20 % of packets lost, 30 s", disturbed(30, loss=0.2)),
        Fault("200 ms delay, 30 s", disturbed(30, delay=0.1)),
        Fault("a tenth of its processor time, 30 s", slow(30, 0.1)),
        Fault("node drained by Ray, then gone for 10 s", drain),
        Fault("Ray stopped there (SIGTERM), started again", stop),
        Fault("node killed, back after 10 s", power),
        Fault("head killed, back after 10 s", power, is_of_head=True),
    )
}


def run(cluster: Cluster, fault: Fault, buffer: str) -> Outcome:
    """Let a fault happen under load; return what came of it once all clients have had Acks for a while."""
    before = cluster.settle()["verdict"]
    cluster.ask("begin")
    _wait_until_served(cluster, 2.0)
    cluster.ask("begin")
    victim = fault.victim(cluster)
    fault.harm(cluster, victim)
    recovered = _wait_until_served(cluster, _CALM_SECONDS)
    seen = cluster.ask("look")
    after = cluster.settle()["verdict"]
    return _outcome(fault, buffer, victim.name, seen, before, after, recovered)


def _wait_until_served(cluster: Cluster, calm: float) -> float:
    """Wait until every client has had Acks for some seconds; return the time until the first of these."""
    started = served = time.monotonic()
    while time.monotonic() - served < calm:
        assert time.monotonic() - started < _RECOVERY_SECONDS, f"some client has no Acks: {cluster.ask('look')}"
        if not all(client["silent"] < 1.0 for client in cluster.ask("look")["clients"].values()):
            served = time.monotonic()
        time.sleep(0.1)
    return served - started


def _outcome(fault: Fault, buffer: str, victim: str, seen: Any, before: Any, after: Any, recovered: float) -> Outcome:
    clients = seen["clients"]
    errors: Counter[str] = Counter()
    for client in clients.values():
        errors.update(client["errors"])
        errors.update({"refused events": client["refused"]} if client["refused"] else {})

    def longest(is_one: Callable[[str], bool]) -> float:
        return max(float(client["pause"]) for name, client in clients.items() if is_one(name))

    more = {name: after[name] - before[name] for name in ("acknowledged", "lost", "duplicates", "reordered")}
    return Outcome(
        fault=fault.name,
        buffer=buffer,
        own_pause=longest(lambda name: name == victim),
        others_pause=longest(lambda name: name != victim and name.startswith("host")),
        roaming_pause=longest(lambda name: name.startswith("roaming")),
        delivery_pause=seen["delivery pause"],
        recovered=recovered,
        broken=after["invented"] + after["corrupted"],
        errors=dict(errors),
        **more,
    )
