"""By which key middleware can be divided into partitions, each with the state of its own keys.

A component that keeps state by a key says so with `state_key`. Where that is a field of the event (`id`, `source`,
`event_type`, `metadata.NAME`) it is the key; else the component has `partition_key(event)`, which returns it, or, which
costs less, `partition_keys(events)`, which returns a list of them too. To have its state move when the number of
partitions changes it has, besides `snapshot()` and `restore(state)` of what runs,

* `split_state(state, partitions, partition_of)`: the states of that many partitions, of one state; `partition_of(key)`
  is that of a key;
* `merge_states(states)`: one state of several, whose keys are different.

They are methods of the component, which may be a configuration, and its `state_form` is their version.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, TypeAlias

from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event

PartitionKey: TypeAlias = Callable[[Event], Hashable]
Keys: TypeAlias = Sequence[Hashable]
PartitionKeys: TypeAlias = Callable[[Sequence[Event]], Keys]
PartitionOf: TypeAlias = Callable[[Hashable], int]

_FIELDS = ("id", "source", "event_type")
_WHERE = "middleware"


def partition_keys(component: object) -> PartitionKeys | None:
    """Return what returns the keys of a list of events; None where a component cannot be divided.

    An event on which the key raises has None: the middleware finds the same, and says what becomes of the event.
    """
    key = partition_key(component)
    if key is None:
        return None
    own = getattr(component, "partition_keys", None)
    return partial(_each, own if callable(own) else partial(map, key), key)


# Code of the user's. What it cannot give a key goes to one partition, where the step fails for it, and says why.
def _each(keys: Callable[[Sequence[Event]], Iterable[Hashable]], key: PartitionKey, events: Sequence[Event]) -> Keys:
    try:
        found = list(keys(events))
    except BaseException:
        found = []
    return found if len(found) == len(events) else [_or_none(key, event) for event in events]


def _or_none(key: PartitionKey, event: Event) -> Hashable:
    try:
        return key(event)
    except BaseException:
        return None


def partition_key(component: object) -> PartitionKey | None:
    """Return the key by which a component can be divided; None where there is none."""
    own = getattr(component, "partition_key", None)
    if callable(own):
        key: PartitionKey = own
        return key
    state_key = getattr(component, "state_key", None)
    if not isinstance(state_key, str):
        return None
    if state_key in _FIELDS:
        return attrgetter(state_key)
    kind, _, name = state_key.partition(".")
    return _metadata(name) if kind == "metadata" and name else None


def _metadata(name: str) -> PartitionKey:
    return lambda event: event.metadata.get(name, "")


def divides_state(component: object) -> bool:
    """Return whether the state of a component moves with its keys when the number of partitions changes."""
    return all(callable(getattr(component, name, None)) for name in ("split_state", "merge_states"))


def check_partitions(name: str, component: Any, partitions: int, replicas: int) -> None:
    """Raise `PlanError` where a component cannot be divided into partitions, and say what can be done instead."""
    said = f"partitions={partitions}"
    if replicas > 1:
        raise PlanError(f"{name}: choose {said}, for what keeps state by a key, or replicas={replicas}", where=_WHERE)
    if partition_key(component) is not None:
        return
    state_key = getattr(component, "state_key", None)
    if not state_key:
        raise PlanError(
            f"{name} has no state_key, so {said} would divide nothing: use replicas={partitions}; or, if it keeps "
            "state, name its key, such as state_key = 'source'",
            where=_WHERE,
        )
    fix = (
        "leave partitions out"
        if hasattr(component, "build")
        else ("name a field (id, source, event_type, metadata.NAME), or add partition_key(event)")
    )
    raise PlanError(
        f"{name} keeps its state by {state_key}, which is no key of an event, so {said} cannot be: {fix}", where=_WHERE
    )
