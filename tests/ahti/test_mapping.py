"""How an Event becomes an AhtiEvent: the mapping's table row by row, and that nothing can make it raise."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Batch, Event
from polku.ahti.v1.events_pb2 import (
    AhtiEvent,
    Entity,
    EntityReference,
    EntityState,
    EntityType,
    EventType,
    Relationship,
    RelationshipState,
    RelationshipType,
)
from polku.ahti.v1.events_pb2 import Outcome as AhtiOutcome
from polku.ahti.v1.events_pb2 import Severity as AhtiSeverity
from polku.emit.ahti.mapping import ahti_batch, ahti_event, read_type
from polku.event.v1.event_pb2 import Outcome, Severity
from tests.ingest.strategies import EVENTS

MOST = 2**64 - 1
NAMED = (
    "network",
    "kernel",
    "container",
    "pod",
    "deployment",
    "service",
    "health",
    "performance",
    "resource",
    "signal",
)


def mapped(event_type: str = "t", *, data: Any = None, **metadata: str) -> AhtiEvent:
    """Return what becomes of an event with this metadata; `data` are the fields of its typed data."""
    return ahti_event(Event(event_type=event_type, metadata=metadata, **(data or {})))


def entity_type(kind: str) -> int:
    return EntityType.Value(f"ENTITY_TYPE_{kind.upper()}")


def test_id_source_and_labels_are_copied() -> None:
    event = ahti_event(Event(id="i", source="s", metadata={"a": "1", "b": "2"}))
    assert (event.id, event.source, dict(event.labels)) == ("i", "s", {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("nanoseconds", "seconds", "nanos"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (1_700_000_000_123_456_789, 1_700_000_000, 123_456_789),
        (-1, -1, 999_999_999),
        (-(10**9), -1, 0),
        (-(2**63), -9_223_372_037, 145_224_192),
        (2**63 - 1, 9_223_372_036, 854_775_807),
    ],
)
def test_time_is_divided_downwards(nanoseconds: int, seconds: int, nanos: int) -> None:
    event = ahti_event(Event(timestamp_unix_ns=nanoseconds))
    assert (event.timestamp.seconds, event.timestamp.nanos) == (seconds, nanos)
    event.timestamp.ToJsonString()  # protobuf itself takes it for a time


@pytest.mark.parametrize("name", Severity.keys())
def test_severities_are_one_to_one(name: str) -> None:
    assert ahti_event(Event(severity=Severity.Value(name))).severity == AhtiSeverity.Value(name)


@pytest.mark.parametrize("name", Outcome.keys())
def test_outcomes_are_one_to_one(name: str) -> None:
    assert ahti_event(Event(outcome=Outcome.Value(name))).outcome == AhtiOutcome.Value(name)


@pytest.mark.parametrize("number", [-1, 6, 99, 2**31 - 1])
def test_unknown_enums_have_substitutes(number: int) -> None:
    event = ahti_event(Event(severity=number, outcome=number))  # type: ignore[arg-type]
    assert event.severity == AhtiSeverity.SEVERITY_INFO
    assert event.outcome == AhtiOutcome.OUTCOME_UNKNOWN


@pytest.mark.parametrize("kind", ["network", "kernel", "container", "k8s", "process", "resource"])
def test_typed_data_is_copied_field_by_field(kind: str) -> None:
    event = Event()
    data = getattr(event, kind)
    data.SetInParent()
    for number, field in enumerate(data.DESCRIPTOR.fields, 1):
        if field.cpp_type == field.CPPTYPE_STRING:
            setattr(data, field.name, f"text {number}")
        elif field.cpp_type == field.CPPTYPE_MESSAGE:
            getattr(data, field.name).FromNanoseconds(number)
        else:
            setattr(data, field.name, number)
    copy = ahti_event(event)
    assert copy.WhichOneof("data") == kind
    assert len(getattr(copy, kind).ListFields()) == len(data.DESCRIPTOR.fields)
    assert getattr(copy, kind).SerializeToString(deterministic=True) == data.SerializeToString(deterministic=True)


def test_empty_typed_data_is_there_all_the_same() -> None:
    assert mapped(data={"kernel": {}}).WhichOneof("data") == "kernel"
    assert mapped().WhichOneof("data") is None


def test_tracing_comes_from_the_metadata_of_those_names() -> None:
    event = mapped(trace_id="t", span_id="s", parent_span_id="p", namespace="n")
    assert (event.trace_id, event.span_id, event.parent_span_id, event.namespace) == ("t", "s", "p", "n")


def test_a_traceparent_is_the_trace_of_an_event_that_names_no_other() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    event = mapped(traceparent=parent)
    assert (event.trace_id, event.span_id, event.labels["traceparent"]) == ("a" * 32, "b" * 16, parent)
    event = mapped(traceparent=parent, trace_id="t")
    assert (event.trace_id, event.span_id) == ("t", "")
    event = mapped(traceparent="00-1")
    assert (event.trace_id, event.span_id) == ("", "")


@pytest.mark.parametrize(
    ("metadata", "cluster"),
    [
        ({}, ""),
        ({"cluster": "c"}, "c"),
        ({"cluster_id": "i"}, "i"),
        ({"cluster_id": "i", "cluster": "c"}, "i"),
        ({"cluster_id": "", "cluster": "c"}, "c"),
    ],
)
def test_cluster_is_its_id_else_its_name(metadata: dict[str, str], cluster: str) -> None:
    assert mapped(**metadata).cluster == cluster


@pytest.mark.parametrize(
    ("metadata", "latency_ms", "micros"),
    [
        ({}, 0.0, 0),
        ({"duration_us": "12"}, 0.0, 12),
        ({"duration_us": "12", "duration_ms": "1"}, 5.0, 12),
        ({"duration_us": "0", "duration_ms": "1"}, 5.0, 0),
        ({"duration_us": str(MOST)}, 0.0, MOST),
        ({"duration_us": str(MOST + 1), "duration_ms": "3"}, 0.0, 3_000),
        ({"duration_us": "-1", "duration_ms": "2"}, 0.0, 2_000),
        ({"duration_us": "soon", "duration_ms": "2"}, 0.0, 2_000),
        ({"duration_us": "9" * 10_000, "duration_ms": "2"}, 0.0, 2_000),
        ({"duration_us": "²"}, 0.0, 0),
        ({"duration_ms": "1.5"}, 0.0, 1_500),
        ({"duration_ms": "1.001"}, 0.0, 1_001),
        ({"duration_ms": "nan"}, 7.0, 7_000),
        ({"duration_ms": "inf"}, 7.0, 7_000),
        ({"duration_ms": "1e400"}, 0.25, 250),
        ({"duration_ms": str(MOST)}, 0.25, 250),
        ({}, 0.25, 250),
        ({"other": "x"}, 0.25, 250),
        ({}, -1.0, 0),
        ({}, math.inf, 0),
        ({}, -math.inf, 0),
        ({}, math.nan, 0),
        ({}, 1e308, 0),
    ],
)
def test_duration_has_three_sources_in_order(metadata: dict[str, str], latency_ms: float, micros: int) -> None:
    assert mapped(data={"network": {"latency_ms": latency_ms}}, **metadata).duration_us == micros


@pytest.mark.parametrize(
    ("event_type", "type_name", "subtype"),
    [
        ("k8s.deployment.scaled", "DEPLOYMENT", "deployment.scaled"),
        ("k8s.replicaset.created", "DEPLOYMENT", "replicaset.created"),
        ("k8s.statefulset.created", "DEPLOYMENT", "statefulset.created"),
        ("k8s.daemonset.created", "DEPLOYMENT", "daemonset.created"),
        ("k8s.pod.created", "POD", "pod.created"),
        ("k8s.service.updated", "SERVICE", "service.updated"),
        ("k8s.endpoint.updated", "SERVICE", "endpoint.updated"),
        ("k8s.configmap.updated", "CONFIG", "configmap.updated"),
        ("k8s.secret.updated", "CONFIG", "secret.updated"),
        ("k8s.pvc.bound", "VOLUME", "pvc.bound"),
        ("k8s.pv.bound", "VOLUME", "pv.bound"),
        ("k8s.node.ready", "CLUSTER", "node.ready"),
        ("k8s.event.warning", "HEALTH", "event.warning"),
        ("k8s.pod.container.oom", "POD", "pod.container.oom"),
        ("k8s.pod", "POD", "pod"),
        ("k8s.ingress.created", "UNSPECIFIED", "ingress.created"),
        *((f"{name}.some.thing", name.upper(), "some.thing") for name in NAMED),
        ("network", "NETWORK", ""),
        ("user.login", "UNSPECIFIED", "user.login"),
        ("networks.up", "UNSPECIFIED", "networks.up"),
        ("k8s", "UNSPECIFIED", "k8s"),
        ("", "UNSPECIFIED", ""),
        ("..", "UNSPECIFIED", ".."),
    ],
)
def test_type_and_subtype_come_from_the_event_type(event_type: str, type_name: str, subtype: str) -> None:
    assert read_type(event_type) == (EventType.Value(f"EVENT_TYPE_{type_name}"), subtype)
    event = mapped(event_type)
    assert (EventType.Name(event.type), event.subtype) == (f"EVENT_TYPE_{type_name}", subtype)


@pytest.mark.parametrize(
    "kind", ["deployment", "pod", "service", "configmap", "secret", "node", "statefulset", "daemonset", "pvc"]
)
def test_metadata_with_a_name_makes_an_entity(kind: str) -> None:
    event = mapped("k8s.x.created", name="web", resource=kind, uid="u-1", cluster="c", namespace="n")
    assert list(event.entities) == [
        Entity(
            type=entity_type(kind),  # type: ignore[arg-type]
            id="u-1",
            name="web",
            cluster_id="c",
            namespace="n",
            state=EntityState.ENTITY_STATE_ACTIVE,
        )
    ]


def test_an_entity_of_another_kind_has_no_type() -> None:
    (entity,) = mapped(name="web", resource="ingress").entities
    assert entity.type == EntityType.ENTITY_TYPE_UNSPECIFIED


@pytest.mark.parametrize("event_type", ["k8s.pod.deleted", "pod.deleted"])
def test_what_was_deleted_is_marked(event_type: str) -> None:
    event = mapped(event_type, name="web", resource="pod", node_name="n1")
    assert event.entities[0].state == EntityState.ENTITY_STATE_DELETED
    assert event.relationships[0].state == RelationshipState.RELATIONSHIP_STATE_DELETED
    assert mapped("k8s.pod.undeleted", name="web").entities[0].state == EntityState.ENTITY_STATE_ACTIVE


def test_without_a_name_the_entity_comes_from_typed_data() -> None:
    k8s = {"resource_type": "Pod", "resource_name": "web-0", "namespace": "shop"}
    (entity,) = mapped(data={"k8s": k8s}, uid="u", cluster="c").entities
    assert (entity.type, entity.id, entity.name) == (EntityType.ENTITY_TYPE_POD, "u", "web-0")
    assert (entity.cluster_id, entity.namespace) == ("c", "shop")
    (entity,) = mapped(data={"container": {"container_id": "c1", "container_name": "app"}}).entities
    assert (entity.type, entity.id, entity.name) == (EntityType.ENTITY_TYPE_CONTAINER, "c1", "app")
    (entity,) = mapped(data={"container": {"container_id": "c1"}}, namespace="n").entities
    assert (entity.id, entity.name, entity.namespace) == ("c1", "c1", "n")


def test_metadata_goes_before_typed_data() -> None:
    (entity,) = mapped(data={"k8s": {"resource_type": "node", "resource_name": "b"}}, name="a", resource="pod").entities
    assert (entity.name, entity.type) == ("a", EntityType.ENTITY_TYPE_POD)


@pytest.mark.parametrize("data", [{}, {"k8s": {"resource_type": "pod"}}, {"container": {}}, {"process": {"pid": 1}}])
def test_nothing_is_made_of_what_has_no_name(data: dict[str, Any]) -> None:
    assert not mapped(data=data).entities


def test_a_pod_is_scheduled_on_its_node() -> None:
    event = mapped(name="web", resource="pod", uid="u", cluster="c", node_name="n1")
    assert list(event.relationships) == [
        Relationship(
            type=RelationshipType.RELATIONSHIP_TYPE_SCHEDULED_ON,
            source=EntityReference(type=EntityType.ENTITY_TYPE_POD, id="u", cluster_id="c"),
            target=EntityReference(type=EntityType.ENTITY_TYPE_NODE, cluster_id="c"),
            labels={"target_name": "n1"},
            state=RelationshipState.RELATIONSHIP_STATE_ACTIVE,
        )
    ]


def test_a_pod_is_owned_by_its_owner() -> None:
    owner = {"owner_kind": "StatefulSet", "owner_name": "web", "owner_uid": "o"}
    event = mapped(name="web-0", resource="pod", uid="u", cluster="c", **owner)
    assert list(event.relationships) == [
        Relationship(
            type=RelationshipType.RELATIONSHIP_TYPE_OWNS,
            source=EntityReference(type=EntityType.ENTITY_TYPE_STATEFULSET, id="o", cluster_id="c"),
            target=EntityReference(type=EntityType.ENTITY_TYPE_POD, id="u", cluster_id="c"),
            state=RelationshipState.RELATIONSHIP_STATE_ACTIVE,
        )
    ]


@pytest.mark.parametrize(
    "metadata",
    [
        {"resource": "service", "name": "web", "node_name": "n1", "owner_kind": "x", "owner_name": "y"},
        {"resource": "pod", "name": "web"},
        {"resource": "pod", "name": "web", "owner_kind": "Deployment"},
        {"resource": "pod", "name": "web", "owner_name": "web"},
        {"resource": "pod", "name": "web", "node_name": ""},
    ],
)
def test_other_things_have_no_relationships(metadata: dict[str, str]) -> None:
    assert not mapped(**metadata).relationships


def test_a_batch_keeps_its_order() -> None:
    batch = Batch.from_events([Event(id=str(number)) for number in range(5)])
    assert [event.id for event in ahti_batch(batch).events] == ["0", "1", "2", "3", "4"]


VALUES = st.text(max_size=8) | st.sampled_from(
    ["pod", "1", "-1", "1e999", "nan", "9" * 5_000, "Infinity", "0x10", "1_0"]
)
NAMES = st.sampled_from(
    [
        *("duration_us", "duration_ms", "name", "resource", "uid", "node_name", "owner_kind", "owner_name"),
        *("owner_uid", "cluster", "cluster_id", "namespace", "trace_id", "span_id", "parent_span_id", "traceparent"),
    ]
)
TYPES = st.lists(st.sampled_from(["k8s", "pod", "network", "", "deleted", "x"]) | st.text(max_size=3), max_size=4)


@given(EVENTS, st.dictionaries(NAMES, VALUES, max_size=8), TYPES, st.integers(-(2**31), 2**31 - 1))
def test_no_event_can_make_it_raise(event: Event, metadata: dict[str, str], parts: list[str], number: int) -> None:
    event.metadata.update(metadata)
    event.event_type = event.event_type or ".".join(parts)
    event.outcome = number  # type: ignore[assignment]
    result = ahti_event(event)
    assert AhtiEvent.FromString(result.SerializeToString()) is not None
    assert (result.id, result.source, dict(result.labels)) == (event.id, event.source, dict(event.metadata))
    assert result.timestamp.seconds * 10**9 + result.timestamp.nanos == event.timestamp_unix_ns
    assert result.WhichOneof("data") == event.WhichOneof("data")
