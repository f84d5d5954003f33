"""Ready-made checks for a Validator: each returns None where the event passes, else the reason why it does not."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from polku import checks
from polku.event.v1.event_pb2 import Event


def json_payload(event: Event) -> str | None:
    """Check that the payload is JSON."""
    fault = json_fault(event.payload)
    return f"payload is not JSON: {fault}" if fault else None


def json_fault(data: bytes) -> str:
    """Say why bytes are not JSON; empty where they are."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    except RecursionError:
        return "nested too deeply"
    return ""


def non_empty(event: Event) -> str | None:
    """Check that the event carries a payload or typed data."""
    return None if event.payload or event.WhichOneof("data") else "neither payload nor typed data"


@dataclass(frozen=True, slots=True)
class max_size:  # noqa: N801 - reads like the functions beside it
    """Check that the serialised event has at most `size` bytes."""

    size: int

    def __post_init__(self) -> None:
        checks.whole("max_size", "size", self.size)

    def __call__(self, event: Event) -> str | None:
        """Check one event."""
        size = event.ByteSize()
        return None if size <= self.size else f"{size} bytes, the limit is {self.size}"

    def __repr__(self) -> str:
        return f"max_size({self.size})"


@dataclass(frozen=True, slots=True)
class has_data:  # noqa: N801 - reads like the functions beside it
    """Check that the event carries typed data of one kind (`network`, `kernel`, `k8s`, …), or, without one, of any."""

    kind: str = ""

    def __post_init__(self) -> None:
        kinds = [one.name for one in Event.DESCRIPTOR.oneofs_by_name["data"].fields]
        if self.kind and self.kind not in kinds:
            raise checks.fault("has_data", "kind", self.kind, f"is not known; choose {checks.either(kinds)}")

    def __call__(self, event: Event) -> str | None:
        """Check one event."""
        found = event.WhichOneof("data")
        if found is None:
            return "no typed data"
        return f"typed data is {found}, not {self.kind}" if self.kind and found != self.kind else None

    def __repr__(self) -> str:
        return f"has_data({self.kind!r})" if self.kind else "has_data()"
