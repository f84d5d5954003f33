"""A real Ray exports its events to a pipeline that runs in it; what it posts otherwise is in tests/ingest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from polku import Event
from tests.kafka.clients import wait_for
from tests.support.ports import free_port
from tests.support.recorder import Recorder
from tests.support.server import environment


@pytest.mark.slow
def test_the_death_of_an_actor_is_known_and_the_router_does_not_report_its_own_reports(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "events")
    port = free_port()
    variables = environment(
        RAY_ADDRESS="local",
        RAY_enable_ray_event="1",
        RAY_enable_core_worker_ray_event_to_aggregator="1",
        RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR=f"http://127.0.0.1:{port}/v1/events?source=ray",
    )
    command = [sys.executable, "-m", "tests.ray.watched_ray", str(port), str(recorder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=variables) as process:
        try:
            wait_for(lambda: deaths(recorder.events()), timeout=120)
        finally:
            process.communicate(timeout=120)
    events = recorder.events()
    (death,) = deaths(events)
    assert (death.metadata["reason"], death.metadata["class_name"]) == ("WORKER_DIED", "Victim")
    own = [event for event in events if event.metadata.get("own")]
    assert {"IngestShell", "BufferShell"} <= {event.metadata.get("class_name") for event in own}
    calls = {event.metadata.get("name", "") for event in events if event.event_type.startswith("ray.task.")}
    assert not [name for name in calls if name.endswith((".push", ".receive"))], calls


def deaths(events: list[Event]) -> list[Event]:
    return [event for event in events if event.event_type == "ray.actor.dead" and event.metadata["name"] == "victim"]
