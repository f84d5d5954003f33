"""Brokers and a topic for a KafkaSource."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.broker import Cluster
from tests.support.recorder import Recorder

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def topic(cluster: Cluster) -> str:
    """Make a topic of three partitions for one test."""
    name = f"in-{next(NUMBERS)}"
    cluster.tell("topic", name, 3)
    return name


@pytest.fixture
def out(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")
