"""A process that ends on another node than the supervisor's is known at once."""

from __future__ import annotations

import pytest

from tests.ray.test_node_lost import run


@pytest.mark.slow  # the nodes start for it alone; tests/actors/test_remote_watch.py ends the same processes without
@pytest.mark.timeout(300)
def test_a_process_that_ends_on_another_node_is_in_health_at_once() -> None:
    found = run("ended_elsewhere")
    for name in ("emitter:partner", "ingest"):  # another part of its node has seen it
        assert found[name]["told"] == f"does not answer: its process {found[name]['pid']} has ended"
    assert "ended" in found["stage-1"]["told"]  # it was alone there
    assert all("dead letter (POISON)" in told["advice"] for told in found.values())
