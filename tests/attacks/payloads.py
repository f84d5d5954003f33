"""What messages at the limits carry: some hundred megabytes, made when this is imported."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from typing import Any

from polku import Event
from polku.v1.gateway_pb2 import EventPayload
from tests.attacks.test_messages import field

RANDOM = random.Random(1)


def events(count: int, **fields: Any) -> EventPayload:
    made = [Event(id=f"e{n}", event_type="t", timestamp_unix_ns=n + 1, **fields) for n in range(count)]
    return EventPayload(events=made)


FULL = events(10_000, source="agent", payload=bytes(340))
BARE = EventPayload(events=[Event()] * 10_000)
LARGE = EventPayload(events=[Event(id="one", source="s", payload=RANDOM.randbytes(4_000_000))])
ENTRIES = EventPayload(events=[Event(id=f"e{n}", metadata={f"k{k}": "v" for k in range(128)}) for n in range(3_000)])
TYPED = [{"id": f"e{n}", "event_type": "t", "source": "s"} for n in range(10_000)]
CLOUD = [{"specversion": "1.0", "id": f"e{n}", "source": "s", "type": "t", "data": {"a": n}} for n in range(10_000)]
ONE = {"specversion": "1.0", "id": "one", "source": "s", "type": "t", "data": ["abc"] * 450_000}
EMPTY = {"specversion": "1.0", "id": "one", "source": "s", "type": "t"}
NAMES = {"id": "one", "metadata": {f"k{n}": "v" for n in range(250_000)}}
MONSTER = b"".join(field(5, field(1, b"%x" % n)) for n in range(400_000))
INVALID = events(10_000, route_to=["x" * 300])
UNROUTABLE = EventPayload(events=[Event(id=f"u{n}", route_to=["nobody"]) for n in range(10_000)])
TWINS = EventPayload(events=[Event(id="one")] * 10_000)
MALFORMED = field(1, b"\xff" * 10) * 10_000
LONG_IDS = EventPayload(events=[Event(id=f"{n:05}{'x' * 240}", event_type="t") for n in range(10_000)])
RANDOM_IDS = EventPayload(events=[Event(id=RANDOM.randbytes(120).hex(), event_type="t") for _ in range(10_000)])
LATE = field(1, field(2, field(2, b"\x09" + b"\xff" * 8) * 9_900))  # records of a time that cannot be
BLOB = bytes(4_000_000)
SIGNED = {"X-Hub-Signature-256": f"sha256={hmac.new(b'secret', BLOB, hashlib.sha256).hexdigest()}"}
BASE64 = base64.b64encode(RANDOM.randbytes(3_000_000)).decode()
ONES = [{**ONE, "id": f"e{n}", "data": ["abc"] * 8_000} for n in range(60)]
WIDE = [{"id": f"e{n}", "metadata": {f"k{k}": "v" for k in range(3_000)}} for n in range(100)]
COLONS = {"id": "one", "event_type": ":" * 4_000_000}
ESCAPES = {"id": "one", "event_type": "\n" * 2_000_000}
RECORD = {"timeUnixNano": "1", "attributes": [{"key": "k", "value": {"stringValue": "x"}}] * 8}
NUMBERS = {"bucketCounts": ["1"] * 600_000}
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
REFUSED = EventPayload(events=[Event(id=f"r{n}", source="s", event_type="t") for n in range(10_000)])
