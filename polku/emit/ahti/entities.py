"""The things that an event is about, and how they hang together: entities and relationships of an `AhtiEvent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from polku.ahti.v1.events_pb2 import EntityState, EntityType, RelationshipState, RelationshipType
from polku.event.v1.event_pb2 import Event

IDENTIFYING = frozenset({"name", "resource"})
"""The metadata without one of which an event that has no typed data is about nothing."""
_KINDS = ("deployment", "pod", "service", "configmap", "secret", "node", "statefulset", "daemonset", "pvc")
_TYPES = {kind: EntityType.Value(f"ENTITY_TYPE_{kind.upper()}") for kind in _KINDS}
_NO_TYPE = EntityType.ENTITY_TYPE_UNSPECIFIED
_POD = EntityType.ENTITY_TYPE_POD
_DELETED = ".deleted"


class _Thing(NamedTuple):
    """What an event is about: its kind, identity, name and namespace (each may be empty)."""

    type: EntityType.ValueType
    id: str
    name: str
    namespace: str


def entity_type(kind: str) -> EntityType.ValueType:
    """Return the type that a resource's name (`pod`, `Pod`) means."""
    return _TYPES.get(kind.lower(), _NO_TYPE)


def add_entities(mapped: Any, event: Event, metadata: Mapping[str, str]) -> None:
    """Add the entity and the relationships that metadata, or typed data without it, tells of."""
    thing = _thing(event, metadata)
    if thing is None:
        return
    is_deleted = event.event_type.endswith(_DELETED)
    if thing.name:
        mapped.entities.add(
            type=thing.type,
            id=thing.id,
            name=thing.name,
            cluster_id=mapped.cluster,
            namespace=thing.namespace,
            state=EntityState.ENTITY_STATE_DELETED if is_deleted else EntityState.ENTITY_STATE_ACTIVE,
        )
    if thing.type == _POD:
        _add_relationships(mapped, thing, metadata, is_deleted)


def _thing(event: Event, metadata: Mapping[str, str]) -> _Thing | None:
    get = metadata.get
    kind, namespace, uid = get("resource", ""), get("namespace", ""), get("uid", "")
    if get("name"):
        return _Thing(entity_type(kind), uid, metadata["name"], namespace)
    which = event.WhichOneof("data")
    if which == "k8s" and event.k8s.resource_name:
        k8s = event.k8s
        return _Thing(entity_type(k8s.resource_type or kind), uid, k8s.resource_name, k8s.namespace or namespace)
    if which == "container" and (event.container.container_name or event.container.container_id):
        container = event.container
        name = container.container_name or container.container_id
        return _Thing(EntityType.ENTITY_TYPE_CONTAINER, container.container_id, name, namespace)
    return _Thing(entity_type(kind), uid, "", namespace) if kind else None


def _add_relationships(mapped: Any, pod: _Thing, metadata: Mapping[str, str], is_deleted: bool) -> None:
    cluster = mapped.cluster
    state = RelationshipState.RELATIONSHIP_STATE_ACTIVE
    if is_deleted:
        state = RelationshipState.RELATIONSHIP_STATE_DELETED
    own = {"type": pod.type, "id": pod.id, "cluster_id": cluster}
    node, owner = metadata.get("node_name"), metadata.get("owner_name")
    if node:  # its name is all that is known: it has no id here
        mapped.relationships.add(
            type=RelationshipType.RELATIONSHIP_TYPE_SCHEDULED_ON,
            source=own,
            target={"type": EntityType.ENTITY_TYPE_NODE, "cluster_id": cluster},
            labels={"target_name": node},
            state=state,
        )
    if owner and metadata.get("owner_kind"):
        mapped.relationships.add(
            type=RelationshipType.RELATIONSHIP_TYPE_OWNS,
            source={
                "type": entity_type(metadata["owner_kind"]),
                "id": metadata.get("owner_uid", ""),
                "cluster_id": cluster,
            },
            target=own,
            state=state,
        )
