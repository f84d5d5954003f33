"""Post support tickets to the example, from two clients that send again what was not answered, and see what arrived."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.kafka.clients import read
from tests.support.server import polku

TEXTS = ("please send me the invoice for march", "the vpn is down, nobody can work", "I forgot my password", " ")
TEAMS = ("billing", "network", "access")
_SIZE = 20  # tickets in a request


def ids(count: int, kind: int) -> set[str]:
    """Return the ids of the tickets of one kind, the place of their text."""
    return {f"T-{number}" for number in range(count) if number % len(TEXTS) == kind}


class Load:
    """Two clients that post tickets, and what became of these; `count` is how many there were."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}/v1/events?source=tickets"
        self.count = 0
        self.accepted: set[str] = set()
        self.refused: set[str] = set()
        self.resent = 0
        self._lock = threading.Lock()
        self._answered = 0
        self._ended = threading.Event()

    def run(self, *actions: Callable[[], None], between: int = 200) -> None:
        """Post until everything was done, with this many tickets answered before and after each."""
        with ThreadPoolExecutor(3) as pool:
            harm = pool.submit(self._do, actions, between)
            for client in [pool.submit(self._client) for _ in range(2)]:
                client.result()
            harm.result()

    def _do(self, actions: Sequence[Callable[[], None]], between: int) -> None:
        try:
            for action in actions:
                self._wait_for(between)
                action()
            self._wait_for(between)
        finally:
            self._ended.set()

    def _wait_for(self, more: int) -> None:
        goal, deadline = self._answered + more, time.monotonic() + 240
        while self._answered < goal:
            assert time.monotonic() < deadline, f"{self._answered} of {goal} tickets are answered"
            time.sleep(0.005)

    def _client(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                first = self.count
                self.count += _SIZE
            self._post(first)
            time.sleep(0.1)

    def _post(self, first: int) -> None:
        numbers = range(first, first + _SIZE)
        body = json.dumps(
            [{"id": f"T-{number}", "customer": f"c{number % 7}", "text": TEXTS[number % 4]} for number in numbers]
        ).encode()
        deadline = time.monotonic() + 240
        while (ack := self._try(body)) is None:
            assert time.monotonic() < deadline, "no answer"
            self.resent += 1
            time.sleep(0.1)
        with self._lock:
            self.accepted.update(ack["event_ids"])
            self.refused.update(error["event_id"] for error in ack["errors"])
            self._answered += len(numbers)

    def _try(self, body: bytes) -> Any:
        """Return the answer where it is one about all of the tickets."""
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                ack = json.load(response)
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise AssertionError(error.read()) from None
            return None
        except (OSError, ValueError):
            return None
        codes = {error["code"] for error in ack["errors"]}
        return None if codes - {"MIDDLEWARE_ERROR"} else ack


def check(load: Load, bootstrap: str, folder: Path, objects: dict[str, bytes]) -> None:
    """Raise `AssertionError` where a ticket that was accepted is not wherever it belongs, or another one is."""
    assert load.accepted == set.union(*(ids(load.count, kind) for kind in range(3)))
    assert load.refused == ids(load.count, 3)
    for kind, team in enumerate(TEAMS):
        wanted = ids(load.count, kind)
        records = [json.loads(record.value()) for record in read(bootstrap, f"tickets.{team}", len(wanted))]
        assert {record["id"] for record in records} == wanted, team
        assert {record["metadata"]["team"] for record in records} == {team}
    assert archived(objects) == load.accepted
    listed = polku("dlq", "list", str(folder / "dead.db"), "--json", "--limit", "100000")
    assert {json.loads(line)["event_id"] for line in listed.stdout.splitlines()} == load.refused


def archived(objects: dict[str, bytes]) -> set[str]:
    """Return the ids in Parquet files."""
    import pyarrow.parquet as parquet

    tables = [parquet.read_table(io.BytesIO(data)) for name, data in objects.items() if name.endswith(".parquet")]
    return {str(event_id) for table in tables for event_id in table["id"].to_pylist()}


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, by name."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
