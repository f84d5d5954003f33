"""What tests do with a stream besides POLKU."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from polku import Event


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write(client: Any, stream: str, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        event = Event(id=f"e{number:05d}", event_type="t", source="s")
        client.xadd(stream, {"data": event.SerializeToString()})


def pending(client: Any, stream: str, group: str = "g") -> int:
    return int(client.xpending(stream, group)["pending"])
