"""Files of cases: NDJSON, found next to the pipelines that they are about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from polku.event.v1.event_pb2 import Event
from polku.ingest.json_fields import FieldError, event_from_fields
from polku.testing.cases.case import Case, Expected
from polku.testing.trial.given import Given, Pause, Raw

_OWN = ("name", "in", "to", "out", "dropped", "dead", "refused")
_PAYLOAD = ("text", "json")
_FIELDS = {*_PAYLOAD, *(field.name for field in Event.DESCRIPTOR.fields)}
_FORM = 'a case is {"in": EVENT, "to": ["EMITTER"], …}'


class CaseError(Exception):
    """Say what of a file cannot be read, with its name and the line."""


class CaseFile(NamedTuple):
    """A file of cases, and the pipeline that it is about."""

    path: Path
    pipeline: Path

    def read(self) -> list[Case]:
        """Return the cases; raises `CaseError`."""
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError as error:
            raise CaseError(f"{self.path}: cannot be read: {error.strerror}") from None
        cases = []
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.lstrip().startswith(b"//"):
                try:
                    cases.append(read_case(msgspec.json.decode(line), number))
                except (FieldError, CaseError, msgspec.DecodeError) as error:
                    raise CaseError(f"{self.path}:{number}: {error}") from None
        return cases


def find_case_files(folder: Path) -> list[CaseFile]:
    """Return the files of cases below a folder (`*.ndjson`), each with its pipeline; raises `CaseError`.

    `orders.ndjson` and `orders.cases.ndjson` are about `orders.py` in the same folder, if there is one; any other, and
    those in a folder `cases`, about `pipeline.py` there, or one folder up.
    """
    found = []
    for path in sorted(folder.rglob("*.ndjson")):
        stem = path.name.split(".")[0]
        places = [path.parent / f"{stem}.py", path.parent / "pipeline.py"]
        places += [path.parent.parent / f"{stem}.py", path.parent.parent / "pipeline.py"]
        pipeline = next((place for place in places if place.is_file()), None)
        if pipeline is None:
            raise CaseError(f"{path}: has no pipeline: there is neither {places[0]} nor {places[1]}")
        found.append(CaseFile(path, pipeline))
    return found


def read_case(fields: Any, line: int) -> Case:
    """Return the case that an object is; raises `CaseError` and `FieldError`."""
    if not isinstance(fields, dict):
        raise CaseError(f"is no object; {_FORM}")
    for name in fields:
        if name not in _OWN and name not in _FIELDS:
            raise CaseError(f"{name!r} is no part of a case; {_FORM}, with the fields that the event should have then")
    if "in" not in fields:
        raise CaseError(f"has no 'in'; {_FORM}")
    given = fields["in"] if isinstance(fields["in"], list) else [fields["in"]]
    said = {name: _said(fields, name) for name in ("dropped", "dead", "refused")}
    name = fields.get("name") or f"line {line}"
    return Case(line, str(name), [read_given(item, n) for n, item in enumerate(given, 1)], _out(fields, said), **said)


def read_given(fields: Any, number: int) -> Given:
    """Return what is sent: an event, raw bytes (`{"raw": …, "source": …}`) or a pause (`{"pause": 60}`)."""
    if isinstance(fields, dict) and "pause" in fields:
        return Pause(float(fields["pause"]))
    if isinstance(fields, dict) and "raw" in fields:
        if unknown := fields.keys() - {"raw", "source", "format", "cluster"}:
            raise CaseError(f"{sorted(unknown)[0]!r}: raw bytes have 'source', 'format' and 'cluster' besides")
        rest = {name: str(fields[name]) for name in ("format", "cluster") if name in fields}
        return Raw(str(fields["raw"]).encode(), str(fields.get("source", "")), **rest)
    payload = fields if isinstance(fields, dict) else {}
    event = event_from_fields({k: v for k, v in fields.items() if k not in _PAYLOAD} if payload else fields)
    if "text" in payload:
        event.payload = str(payload["text"]).encode()
    if "json" in payload:
        event.payload = msgspec.json.encode(payload["json"])
    event.id = event.id or f"case-{number}"
    return event


def _out(fields: Mapping[str, Any], said: Mapping[str, str]) -> list[Expected] | None:
    if "out" in fields:
        if not isinstance(fields["out"], list):
            raise CaseError("'out' must be a list of the events that should be delivered")
        return [_expected(one) for one in fields["out"]]
    own = _expected(fields)
    if own.to is None and not own.fields:
        return [] if any(said.values()) else None
    return [] if own.to == [] else [own]


def _expected(fields: Any) -> Expected:
    if not isinstance(fields, dict):
        raise CaseError(f"{fields!r} is no object of the fields that an event should have")
    to = fields.get("to")
    if to is not None and not (isinstance(to, list) and all(isinstance(name, str) for name in to)):
        raise CaseError(f"'to' must be a list of emitters, not {to!r}")
    return Expected(to, {name: value for name, value in fields.items() if name not in _OWN})


def _said(fields: Mapping[str, Any], name: str) -> str:
    """Return a part of what should be said; `true` stands for anything."""
    value = fields.get(name)
    if value is True:
        return " " if name != "dropped" else "("
    if value is None or value is False:
        return ""
    if not isinstance(value, str):
        raise CaseError(f"{name!r} must be true, or a part of what is said, not {value!r}")
    return value
