"""The comparison with the Collector, with a small load."""

from __future__ import annotations

import os

import pytest

from polku.bench.processes import descendants
from tests.bench.peers.records import Requests, numbers_in
from tests.bench.peers.routers import Router, other_cores, own_cores, running
from tests.bench.peers.trial import Overload, Shape, measure


def test_records_are_told_apart() -> None:
    requests = Requests(20, 190)
    body = requests.request(7)
    assert len(body) / 20 == pytest.approx(190, rel=0.1)
    assert set(numbers_in(body)) >= requests.kept(7)
    assert len(requests.kept(7)) == requests.kept_each == 18


def test_a_router_of_one_core_has_it_for_itself_where_there_are_others() -> None:
    every = os.sched_getaffinity(0)
    own, others = own_cores(1), other_cores(1)
    assert len(own) == 1
    assert own | others == every
    assert not own & others or len(every) == 1
    assert own_cores(2) == other_cores(2) == every


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["inline", "ray"])
def test_each_process_of_a_router_of_one_core_is_kept_to_it(runtime: str) -> None:
    with running(Router(name="POLKU", cores=1, runtime=runtime), sink=1) as one:
        pids = [one.process.pid, *descendants(one.process.pid)]
        assert {core for pid in pids for core in os.sched_getaffinity(pid)} == own_cores(1)


@pytest.mark.slow
@pytest.mark.parametrize("overload", [None, Overload(taken=500, offered=2_000, seconds=2)])
def test_everything_is_delivered_once_and_counted(overload: Overload | None) -> None:
    found = measure(Router(name="POLKU inline"), Shape(10, 190, 100), overload)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.delivered > 0
    assert found.cpu > 0
