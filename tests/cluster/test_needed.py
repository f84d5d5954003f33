"""Replicas that grow over three hosts with the load, and lanes on the one of the gateway, and fewer again."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, cluster
from tests.cluster.faults import FAULTS
from tests.cluster.hosts import wait_until, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

_STEPS = re.compile(r"(\d+) → (\d+) (lanes|replicas)[^;\n]*$", re.MULTILINE)


def steps(made: Cluster) -> list[tuple[int, int]]:
    """Return each change that was begun: from how many to how many."""
    return [(int(before), int(after)) for before, after, _ in _STEPS.findall(made.whole_log())]


def check_all(made: Cluster, *, ordered: bool) -> None:
    """Check what became of all that was ever sent; nothing new is sent any more."""
    verdict: Any = made.settle(120)["verdict"]
    print(verdict)
    assert verdict["acknowledged"] > 2_000
    wrong = {name: verdict[name] for name in ("lost", "invented", "corrupted", *(["reordered"] if ordered else []))}
    assert not any(wrong.values()), verdict


def replicas(made: Cluster) -> dict[str, str]:
    return {name: address for name, address in made.actors().items() if "/replica-" in name}


def test_replicas_grow_over_hosts_lose_one_and_shrink_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"buffer": "durable", "shape": "replicas", "lanes": "", "clients": 4}
    with cluster(tmp_path, nodes=3, **options) as made:
        wait_until(lambda: len(replicas(made)) == 4, "four replicas", 240)
        assert len(set(replicas(made).values())) >= 2, "they are all on one host"
        victim = next(host for host in made.hosts[1:] if host.address in replicas(made).values())
        FAULTS["node killed, back after 10 s"].harm(made, victim)
        wait_until(lambda: len(replicas(made)) == 4, "the lost replica, elsewhere", 120)
        check_all(made, ordered=True)
        wait_until(lambda: len(replicas(made)) == 1, "one replica", 120)
        made.ask("begin")  # what comes then passes the one that stays
        wait_until(lambda: made.ask("look")["clients"]["host-1"]["silent"] < 1.0, "Acks")
        check_all(made, ordered=True)
        assert any(after > before for before, after in steps(made))
        assert any(after < before for before, after in steps(made))


def test_lanes_come_and_go_with_the_load_of_another_host(tmp_path: Path) -> None:
    options: dict[str, Any] = {"buffer": "durable", "shape": "lanes", "lanes": "", "clients": 4}
    with cluster(tmp_path, nodes=2, **options) as made:
        wait_until(lambda: (2, 3) in steps(made) or (1, 3) in steps(made), "three lanes", 240)
        wait_until(lambda: "lane-3/ingest" in made.actors(), "the third lane")
        made.head.unplug()  # those who send are on another host
        time.sleep(3)
        made.head.plug()
        wait_until(lambda: all(c["silent"] < 1.0 for c in made.ask("look")["clients"].values()), "Acks for all", 120)
        made.ask("rest")
        wait_until(lambda: not any(name.startswith(("lane-2", "lane-3")) for name in made.actors()), "one lane", 180)
        made.ask("begin")
        wait_until(lambda: made.ask("look")["clients"]["host-1"]["silent"] < 1.0, "Acks")
        check_all(made, ordered=False)  # a client that connects again may be in another lane
