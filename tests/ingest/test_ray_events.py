"""What Ray 2.60 posted about a job of a few tasks and an actor that died, byte for byte but for a path."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies

from polku import (
    Deduplicator,
    Event,
    Hub,
    InputError,
    PlanError,
    RayEventsIngestor,
    RecordError,
    Severity,
    StdoutEmitter,
)
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.event.v1.event_pb2 import Outcome
from polku.testing import Raw, run

RECORDED = (Path(__file__).parent / "ray_events.json").read_bytes()
CONTEXT = IngestContext("ray")
ACTOR = "77902f44d2c8e664d1b4b1fd01000000"


def read(data: bytes, **options: Any) -> list[Event | RecordError]:
    return list(RayEventsIngestor(**options).build(SystemClock()).ingest(data, CONTEXT))


def events(data: bytes = RECORDED, **options: Any) -> list[Event]:
    found = read(data, **options)
    assert not [one for one in found if isinstance(one, RecordError)], found
    return [one for one in found if isinstance(one, Event)]


def of(event_type: str, data: bytes = RECORDED) -> list[Event]:
    return [event for event in events(data) if event.event_type == event_type]


def test_each_state_that_something_went_through_is_an_event() -> None:
    actor = [event.event_type for event in events() if event.metadata.get("actor_id") == ACTOR]
    assert [kind for kind in actor if kind.startswith("ray.actor.")] == [
        "ray.actor.defined",
        "ray.actor.dependencies_unready",
        "ray.actor.pending_creation",
        "ray.actor.alive",
        "ray.actor.dead",
        "ray.actor.dead",
    ]
    kinds = {event.event_type for event in events()}
    assert {"ray.node.alive", "ray.job.finished", "ray.worker.dead", "ray.task.failed", "ray.task.finished"} <= kinds


def test_the_death_of_an_actor_says_which_one_died_and_why() -> None:
    dead, again = of("ray.actor.dead")
    assert (dead.severity, dead.outcome) == (Severity.SEVERITY_ERROR, Outcome.OUTCOME_FAILURE)
    assert dead.timestamp_unix_ns == 1795921550828145119
    assert {name: dead.metadata[name] for name in ("name", "class_name", "reason", "job_id")} == {
        "name": "victim",
        "class_name": "A",
        "reason": "WORKER_DIED",
        "job_id": "01000000",
    }
    assert dead.metadata["message"].startswith("The actor is dead because its worker process has died.")
    assert dead.metadata["session"] == "session_2026-11-29_03-05-35_164904_24709"
    assert json.loads(dead.payload)["actor"]["death_cause"]["actor_died_error_context"]["never_started"] is False
    assert dead.id == again.id == f"ray-{ACTOR}-dead"
    assert "own" not in dead.metadata


def test_a_task_has_the_name_of_its_definition_and_what_it_failed_with() -> None:
    failed, _ = of("ray.task.failed")
    assert failed.metadata["name"] == "f"
    assert failed.metadata["reason"] == "TASK_EXECUTION_EXCEPTION"
    assert failed.metadata["message"].startswith("User exception:\nray::f() (pid=25249")
    assert failed.severity == Severity.SEVERITY_ERROR
    earlier = [event for event in events() if event.id == f"{failed.id[:-1]}0"]
    assert [("reason" in event.metadata, event.outcome) for event in earlier] == [(False, 0)]


def test_what_ends_as_it_should_is_no_failure() -> None:
    by_reason = {event.metadata["reason"]: event for event in of("ray.worker.dead")}
    assert by_reason["SYSTEM_ERROR"].severity == Severity.SEVERITY_ERROR
    assert by_reason["INTENDED_USER_EXIT"].severity == Severity.SEVERITY_INFO
    (finished,) = of("ray.job.finished")
    assert finished.outcome == Outcome.OUTCOME_SUCCESS


def test_what_is_posted_again_is_dropped_by_its_ids() -> None:
    hub = Hub().ingestor(RayEventsIngestor()).middleware(Deduplicator()).emitter(StdoutEmitter(), name="out")
    outcome = run(hub, [Raw(RECORDED, source="ray"), Raw(RECORDED, source="ray")])
    got = outcome.ids("out")
    assert len(got) == len(set(got)) == len(events()) - 1
    assert {event.source for event in outcome.delivered["out"]} == {"ray"}


def test_names_may_be_as_in_the_protocol() -> None:
    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [renamed(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower(): renamed(one) for name, one in value.items()}

    assert events(json.dumps(renamed(json.loads(RECORDED))).encode()) == events()


def test_the_routers_own_actors_are_marked() -> None:
    own = RECORDED.replace(b"9226b5eb-b70a-4884-89ec-5bd2306dd50c", b"polku")
    marked = {event.event_type for event in events(own) if event.metadata.get("own")}
    assert {"ray.actor.defined", "ray.actor.alive", "ray.actor.dead", "ray.actor_task.defined"} <= marked
    assert "ray.node.alive" not in marked


def test_it_remembers_only_so_many_names() -> None:
    def named(remember: int) -> list[str]:
        finished = [event for event in events(remember=remember) if event.event_type == "ray.task.finished"]
        return [event.metadata.get("name", "") for event in finished]

    assert named(10_000) == ["f", "f", "f", "A.ok", "victim:A.__init__", ""]
    assert named(1) == ["f", "f", "f", "", "", ""]


def test_a_record_that_is_none_is_refused_and_the_others_pass() -> None:
    first = json.loads(RECORDED)[0]
    odd: list[Any] = [7, {}, {**first, "timestamp": "yesterday"}]
    found = read(json.dumps([*odd, first]).encode())
    errors = [one for one in found if isinstance(one, RecordError)]
    assert [error.message.partition(":")[0] for error in errors] == ["[0]", "[1]", "[2]"]
    assert isinstance(found[-1], Event)
    assert found[-1].event_type == "ray.node.defined"
    with pytest.raises(InputError, match="not JSON"):
        read(b"[{")


def test_what_a_later_ray_exports_passes_under_its_name() -> None:
    record = {**json.loads(RECORDED)[0], "eventType": "TASK_PROFILE_EVENT", "taskProfileEvents": {"taskId": "AQAAAA=="}}
    (event,) = events(json.dumps(record).encode())
    assert (event.event_type, event.metadata["task_id"]) == ("ray.task_profile", "01000000")


def test_options_are_checked() -> None:
    with pytest.raises(PlanError, match="remember=0"):
        RayEventsIngestor(remember=0)


NUMBERS = strategies.integers() | strategies.floats(allow_nan=False, allow_infinity=False)
JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | NUMBERS | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=8,
)


@given(strategies.data())
def test_whatever_stands_in_a_record_is_an_event_or_an_error(data: strategies.DataObject) -> None:
    record = data.draw(strategies.sampled_from(json.loads(RECORDED)))
    part = record
    while True:
        name = data.draw(strategies.sampled_from(sorted(part)))
        inner = part[name][0] if isinstance(part[name], list) and part[name] else part[name]
        if not isinstance(inner, dict) or not inner or data.draw(strategies.booleans()):
            break
        part = inner
    part[name] = data.draw(JSON)
    for one in read(json.dumps([record]).encode()):
        assert isinstance(one, Event | RecordError)
        if isinstance(one, Event):
            assert one.id.startswith("ray-")
            one.SerializeToString()
