"""The events that Ray exports about its own tasks, actors, nodes, workers and jobs, read from what its agents post.

Each node's agent posts JSON arrays of `RayEvent` messages (`src/ray/protobuf/public/events_base_event.proto` of Ray)
where `RAY_DASHBOARD_AGGREGATOR_AGENT_EVENTS_EXPORT_ADDR` names an address, with names in camelCase or, where Ray is set
so, as in the `.proto`. Such a record either defines something, or lists the states that something went through.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

import msgspec

from polku import checks
from polku.clock import Clock
from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import InputError, RecordError
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.ingest.json_cut import elements

_RAW = msgspec.json.Decoder(msgspec.Raw).decode
_OWN_NAMESPACE = "polku"
_MESSAGE = 500  # characters of a reason that become metadata; the payload has all of them
_CAMEL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z", re.ASCII)
_KINDS = {"driver_job": "job"}
_IDS = ("actor_id", "task_id", "node_id", "worker_id", "job_id", "parent_task_id", "placement_group_id")
_TEXTS = ("class_name", "entrypoint", "hostname", "node_ip_address", "submission_id", "task_attempt")
_NAMES = ("name", "actor_task_name", "task_name", "repr_name", "node_name")
_REMEMBERED = ("name", "class_name", "namespace", "job_id")
_FAILED = frozenset(
    {
        "FAILED",
        *("WORKER_DIED", "NODE_DIED"),  # an actor's
        *("SYSTEM_ERROR", "USER_ERROR", "NODE_OUT_OF_MEMORY"),  # a worker's
        "UNEXPECTED_TERMINATION",  # a node's
        *("creation_task_failure", "runtime_env_failed", "actor_unschedulable", "oom"),  # an actor that never was
    }
)
_FINISHED = frozenset({"FINISHED", "SUCCEEDED"})
_SEVERITIES = {name.removeprefix("SEVERITY_"): number for name, number in Severity.items()}
_SEVERITIES |= {"TRACE": Severity.SEVERITY_DEBUG, "FATAL": Severity.SEVERITY_CRITICAL}


@dataclass(frozen=True, slots=True)
class RayEventsIngestor:
    """Read what Ray exports about itself: `.ingestor(RayEventsIngestor())` serves the source `ray`.

    A definition becomes one event, such as `ray.actor.defined`; of a lifecycle each state becomes one, such as
    `ray.actor.dead`, `ray.task.failed`, `ray.node.alive`, `ray.job.finished` or `ray.worker.dead`. Ids derive from
    Ray's own, so that what is posted again has the same ones, which a `Deduplicator` knows; of an actor, worker or node
    that is dead each report has the same id. Metadata has `state`, the ids (in hexadecimal, as Ray shows them), `name`,
    `class_name`, `namespace`, `reason`, `message` and `session`, as far as the record has them; names also of the
    latest `remember` definitions that came before. The payload is the record, as JSON, with the one state. What failed
    has the severity `error` and the outcome `failure`.

    Events about POLKU's own actors have `own` in their metadata, so that they can be told apart. POLKU's actors export
    no events about the calls between them, so that these events cause no further ones.
    """

    remember: int = field(default=10_000, kw_only=True)

    sources: ClassVar[tuple[str, ...]] = ("ray",)

    def __post_init__(self) -> None:
        checks.whole("RayEventsIngestor", "remember", self.remember)

    def build(self, clock: Clock) -> _Reader:
        """Make the running ingestor."""
        return _Reader(self.remember)


class _Record(NamedTuple):
    """A record: its kind (`actor`), whether it is a `definition` or a `lifecycle`, and its fields in snake_case."""

    id: str
    kind: str
    form: str
    envelope: Mapping[str, Any]
    body: Mapping[str, Any]


class _Reader:
    takes_turns = True  # others may read between two records: names are only remembered

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._known: OrderedDict[str, dict[str, str]] = OrderedDict()  # what was defined, by kind and id

    def ingest(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError]:
        """Yield the events of each record; raises `InputError` where the data is no JSON."""
        return (result for result in self.ingest_in_slices(data, context) if result is not None)

    def ingest_in_slices(self, data: bytes, context: IngestContext) -> Iterator[Event | RecordError | None]:
        """Do what `ingest` does, with None where others may have their turn."""
        place = 0
        try:
            _RAW(data)
            yield None
            for pieces in elements(data) if data.lstrip()[:1] == b"[" else [[data]]:
                if pieces is None:
                    yield None
                    continue
                for piece in pieces:
                    yield from self._record(piece, place)
                    place += 1
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(Code.INVALID_RECORD, f"not JSON: {error}") from None

    def _record(self, piece: bytes, place: int) -> Iterator[Event | RecordError]:
        record = msgspec.json.decode(piece)
        try:
            yield from self._events(_read(record))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            yield RecordError(f"[{place}]: no event of Ray: {type(error).__name__}: {error}")

    def _events(self, record: _Record) -> Iterator[Event]:
        """Yield an event for a definition, or for each state of a lifecycle."""
        if record.form != "lifecycle":
            yield self._event(record, record.id, record.body, "defined" if record.form == "definition" else "")
            return
        common = {name: value for name, value in record.body.items() if name != "state_transitions"}
        for number, transition in enumerate(record.body.get("state_transitions", [])):
            state = {name: value for name, value in transition.items() if value not in ("", None)}
            one, name = f"{record.id}-{number}", str(state["state"]).lower()
            if name == "dead" and (dead := common.get(f"{record.kind}_id")):
                one = f"{dead}-dead"  # Ray says it again when the job ends, in a record of its own
            yield self._event(record, one, {**common, **state}, name)

    def _event(self, record: _Record, event_id: str, body: dict[str, Any] | Mapping[str, Any], what: str) -> Event:
        metadata = _metadata(record, body)
        reason = _add_reason(metadata, body)
        self._add_names(record, metadata)
        if metadata.get("namespace") == _OWN_NAMESPACE:
            metadata["own"] = "true"
        state = str(body.get("state", ""))
        failed = state in _FAILED or (state in ("DEAD", "RESTARTING") and reason in _FAILED)
        given = _SEVERITIES.get(str(record.envelope.get("severity")), Severity.SEVERITY_INFO)
        return Event(
            id=f"ray-{event_id}",
            timestamp_unix_ns=_nanoseconds(body.get("timestamp") or record.envelope["timestamp"]),
            event_type=".".join(["ray", record.kind, *([what] if what else [])]),
            metadata=metadata,
            payload=msgspec.json.encode({**record.envelope, record.kind: body}),
            severity=max(given, Severity.SEVERITY_ERROR) if failed else given,
            outcome=Outcome.OUTCOME_FAILURE
            if failed
            else Outcome.OUTCOME_SUCCESS
            if state in _FINISHED
            else Outcome.OUTCOME_UNSPECIFIED,
        )

    def _add_names(self, record: _Record, metadata: dict[str, str]) -> None:
        """Remember what a definition names, and give the names to what lacks them: a method's also its actor's."""
        kind = "task" if record.kind == "actor_task" else record.kind
        key = f"{kind} {metadata.get(f'{kind}_id', '')}"
        actor = self._known.get(f"actor {metadata.get('actor_id', '')}", {})
        if record.form == "definition":
            if kind == "task" and "namespace" in actor:
                metadata["namespace"] = actor["namespace"]
            self._known[key] = {name: metadata[name] for name in _REMEMBERED if name in metadata}
            self._known.move_to_end(key)
            if len(self._known) > self._remember:
                self._known.popitem(last=False)
        for name, value in self._known.get(key, {}).items():
            metadata.setdefault(name, value)


def _read(record: Any) -> _Record:
    """Return the parts of a record, whose names are in either form."""
    if not isinstance(record, dict):
        raise TypeError("it is no object")
    fields = {_snake(name): value for name, value in record.items()}
    name = str(fields["event_type"]).lower()
    body = _snake_names(fields.pop(name, None) or fields.pop(f"{name}s", {}))
    stem = name.removesuffix("_event")
    kind, _, form = stem.rpartition("_") if stem.endswith(("_definition", "_lifecycle")) else (stem, "", "")
    envelope = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    for key in ("event_id", "node_id"):
        if envelope.get(key):
            envelope[key] = _hexadecimal(envelope[key])
    return _Record(envelope["event_id"], _KINDS.get(kind, kind), form, envelope, body)


def _metadata(record: _Record, body: Mapping[str, Any]) -> dict[str, str]:
    found = {"session": record.envelope.get("session_name"), "state": body.get("state"), "pid": body.get("pid")}
    found["pid"] = found["pid"] or body.get("worker_pid") or body.get("driver_pid")
    found["namespace"] = body.get("ray_namespace")
    found["name"] = next((body[name] for name in _NAMES if body.get(name)), None)
    found |= {name: body.get(name) for name in _TEXTS}
    found["node_id"] = record.envelope.get("node_id")
    found |= {name: body[name] for name in _IDS if body.get(name)}
    return {name: str(value) for name, value in found.items() if value}


def _add_reason(metadata: dict[str, str], body: Mapping[str, Any]) -> str:
    """Add why something died or failed, and what is known of it only then; return the reason's name."""
    reason, details = "", {}
    for name in ("death_cause", "death_info", *(["ray_error_info"] if body.get("state") == "FAILED" else [])):
        if isinstance(found := body.get(name), dict):
            details = found
    for name, context in details.items():
        if isinstance(context, dict) and name.endswith("_context"):
            details, reason = context, name.removesuffix("_context")
            break
    reason = str(details.get("reason") or details.get("exit_type") or details.get("error_type") or reason)
    message = details.get("error_message") or details.get("exit_detail") or details.get("reason_message")
    if body.get("state") == "RESTARTING":
        reason = reason or str(body.get("restart_reason", ""))
    for name, own in (("class_name", "class_name"), ("name", "name"), ("namespace", "ray_namespace")):
        if details.get(own):
            metadata[name] = str(details[own])
    if reason:
        metadata["reason"] = reason
    if message:
        metadata["message"] = _COLOUR.sub("", str(message))[:_MESSAGE]
    return reason


def _snake(name: str) -> str:
    return _CAMEL.sub(r"_\1", name).lower()


def _snake_names(value: Any) -> Any:
    """Return a decoded message with its names in snake_case, and its ids as Ray shows them."""
    if isinstance(value, list):
        return [_snake_names(one) for one in value]
    if not isinstance(value, dict):
        return value
    fields = {_snake(name): _snake_names(inner) for name, inner in value.items()}
    return {name: _hexadecimal(one) if name in _IDS and one else one for name, one in fields.items()}


def _hexadecimal(value: Any) -> str:
    """Return an id, which protobuf's JSON has in base64, in hexadecimal; anything else as it is."""
    try:
        return b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError):
        return str(value)


def _nanoseconds(text: Any) -> int:
    match = _TIME.fullmatch(str(text))
    if match is None:
        raise ValueError(f"timestamp={checks.shorten(text)} is no time")
    seconds = int(datetime.fromisoformat(f"{match[1]}+00:00").timestamp())
    return seconds * 1_000_000_000 + int((match[2] or "").ljust(9, "0")[:9])
