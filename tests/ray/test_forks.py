"""The workers of the tests' Ray are processes like any other, though they are forked."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray


@ray.remote(num_cpus=0)
class Worker:
    def about(self) -> tuple[str, int, bool]:
        """Return an id as Ray draws them, its parent, and whether it leads a process group, which Ray kills with it."""
        return ray.ObjectID.from_random().hex(), os.getppid(), os.getpgid(0) == os.getpid()


@pytest.mark.usefixtures("ray_session")
def test_workers_that_are_forked_from_one_draw_ids_of_their_own() -> None:
    started: Any = Worker
    workers = [started.remote() for _ in range(5)]
    about = ray.get([worker.about.remote() for worker in workers])
    ids, parents, leads = zip(*about, strict=True)
    assert len(set(ids)) == 5
    assert len(set(parents)) < 5, "most have the same parent"
    assert all(lead for lead, parent in zip(leads, parents, strict=True) if parents.count(parent) > 1)
