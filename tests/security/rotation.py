"""Clients that go on sending while all that they and the gateway show each other is replaced, piece by piece."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from polku import Event
from polku.v1.gateway_pb2 import Ack, EventPayload, IngestBatch, IngestEvent
from tests.support.authority import Authority, Pair

_BATCHES = 20  # of a stream, until its client opens another one
_EVENTS = 10  # of a batch


class Shown(NamedTuple):
    """What a client trusts, and what it shows."""

    roots: bytes
    pair: Pair
    token: str

    def channel(self, address: str) -> grpc.Channel:
        """Open a connection of its own."""
        own = self.pair.key.read_bytes(), self.pair.cert.read_bytes()
        credentials = grpc.ssl_channel_credentials(self.roots, *own)
        return grpc.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)])

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.token}"),)

    def context(self) -> ssl.SSLContext:
        """Return the context of a connection by HTTP."""
        context = ssl.create_default_context(cadata=self.roots.decode())
        context.load_cert_chain(self.pair.cert, self.pair.key)
        return context


class Load:
    """Send over streams, calls and HTTP, on new connections all the time, with what is to be shown at the moment."""

    def __init__(self, grpc_address: str, http_address: str, shown: Shown) -> None:
        self.grpc, self.http = grpc_address, http_address
        self.shown = shown
        self.acknowledged: list[str] = []
        self.sent = Counter[str]()
        self.refused: list[str] = []
        self._used: dict[str, Shown] = {}
        self._is_over = False
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Send until the end of the block."""
        ways: dict[str, Callable[[Shown, str], list[str]]] = {
            "stream": self._stream,
            "call": self._call,
            "http": self._post,
        }
        threads = [threading.Thread(target=self._run, args=way) for way in ways.items()]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._is_over = True
            for thread in threads:
                thread.join(60)

    def show(self, **change: Any) -> None:
        """Have clients show something else from now on; returns when every one of them has done so."""
        self.shown = shown = self.shown._replace(**change)
        wait_until(lambda: self.refused or (len(self._used) == 3 and all(one is shown for one in self._used.values())))

    def _run(self, way: str, send: Callable[[Shown, str], list[str]]) -> None:
        number = 0
        while not self._is_over:
            shown, number = self.shown, number + 1
            try:
                ids = send(shown, f"{way}-{number}")
            except Exception as error:  # whatever it is, the client was not served
                self.refused.append(f"{way}: {type(error).__name__}: {error}"[:500])
                continue
            with self._lock:
                self.acknowledged += ids
                self.sent[way] += 1
                self._used[way] = shown

    def _stream(self, shown: Shown, name: str) -> list[str]:
        batches = [_batch(f"{name}-{number}") for number in range(_BATCHES)]
        with shown.channel(self.grpc) as channel:
            call = channel.stream_stream(
                "/polku.v1.Gateway/StreamEvents", IngestBatch.SerializeToString, Ack.FromString
            )
            acks = list(call(iter(batches), metadata=shown.metadata, timeout=60))
        if len(acks) != _BATCHES or any(ack.errors for ack in acks):
            raise AssertionError(f"{len(acks)} acks, {[error for ack in acks for error in ack.errors][:2]}")
        return [event_id for ack in acks for event_id in ack.event_ids]

    def _call(self, shown: Shown, name: str) -> list[str]:
        with shown.channel(self.grpc) as channel:
            call: Any = channel.unary_unary(
                "/polku.v1.Gateway/SendEvent", IngestEvent.SerializeToString, Ack.FromString
            )
            return list(call(IngestEvent(event=_event(name)), metadata=shown.metadata, timeout=60).event_ids)

    def _post(self, shown: Shown, name: str) -> list[str]:
        client = http.client.HTTPSConnection(self.http, timeout=60, context=shown.context())
        body = json.dumps({"id": name, "source": "rotation", "event_type": "t"})
        client.request("POST", "/v1/events", body, {**dict(shown.metadata), "Content-Type": "application/json"})
        answer = client.getresponse()
        text = answer.read()
        client.close()
        if answer.status != 200:
            raise AssertionError(f"{answer.status}: {text[:200]!r}")
        return list(json.loads(text)["event_ids"])


def serves(address: str, shown: Shown) -> bool:
    """Return whether a gateway serves a client that shows this."""
    with shown.channel(address) as channel:
        call: Any = channel.unary_unary("/polku.v1.Gateway/SendEvent", IngestEvent.SerializeToString, Ack.FromString)
        try:
            return bool(call(IngestEvent(event=_event("")), metadata=shown.metadata, timeout=30).event_ids)
        except grpc.RpcError:
            return False


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when something has come true."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def bundle(*authorities: Authority) -> bytes:
    """Return the certificates of several authorities."""
    return b"".join(authority.cert.read_bytes() for authority in authorities)


def put_text(path: Path, content: bytes) -> None:
    """Put other content in place of a file, at once."""
    aside = path.with_suffix(".aside")
    aside.write_bytes(content)
    aside.replace(path)


def _batch(name: str) -> IngestBatch:
    return IngestBatch(events=EventPayload(events=[_event(f"{name}-{number}") for number in range(_EVENTS)]))


def _event(name: str) -> Event:
    return Event(id=name, source="rotation", event_type="t")
