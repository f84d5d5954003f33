"""The comparison with the Collector, with a small load."""

from __future__ import annotations

import pytest

from tests.bench.peers.records import Requests, numbers_in
from tests.bench.peers.routers import Router
from tests.bench.peers.trial import Overload, Shape, measure


def test_records_are_told_apart() -> None:
    requests = Requests(20, 190)
    body = requests.request(7)
    assert len(body) / 20 == pytest.approx(190, rel=0.1)
    assert set(numbers_in(body)) >= requests.kept(7)
    assert len(requests.kept(7)) == requests.kept_each == 18


@pytest.mark.slow
@pytest.mark.parametrize("overload", [None, Overload(taken=500, offered=2_000, seconds=2)])
def test_everything_is_delivered_once_and_counted(overload: Overload | None) -> None:
    found = measure(Router(name="POLKU inline"), Shape(10, 190, 100), overload)
    assert (found.lost, found.doubled) == (0, 0)
    assert found.delivered > 0
    assert found.cpu > 0
