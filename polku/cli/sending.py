"""Send events to a gateway from the command line."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import grpc
import grpc.aio

from polku.cli.credentials import Credentials
from polku.cli.refusals import Refusals
from polku.contracts import IngestContext
from polku.emit.grpc.addresses import Address, parse_address
from polku.errors import PolkuError, RecordError, SettingError
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.ingest import JsonIngestor
from polku.ingest.json_fields import FieldError, event_from_fields
from polku.rpc.proxy import Proxy, proxy_for
from polku.text import line as printable
from polku.v1.gateway_pb2 import Ack, IngestBatch

_BATCH = 1_000
_IN_FLIGHT = 8
_NO_GRPC = "Expected SETTINGS frame"  # what grpc says of a server that answers in HTTP/1
_PATIENCE = 10.0
_SEE = "see `polku health` for what holds it up"
_METHOD = "/polku.v1.Gateway/StreamEvents"


class Target(NamedTuple):
    """A gateway as gRPC takes it, with credentials where it speaks TLS, and a bearer token where it asks for one.

    `proxy` leads to it, if there is one; gRPC's own rule is another one, and sends what is for this machine there too.
    """

    address: str
    credentials: grpc.ChannelCredentials | None
    token: str | None = None
    proxy: Proxy | None = None

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Return the options of its channel."""
        options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", -1)]
        if self.proxy is None:
            return [*options, ("grpc.enable_http_proxy", 0)]
        user, _, password = self.proxy.credentials.partition(":")
        own = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return [*options, ("grpc.http_proxy", f"http://{own}{self.proxy.url.removeprefix('http://')}")]


class Tally(NamedTuple):
    """Count what became of the events."""

    accepted: int
    refused: int


Report = Callable[[str], None]
Advance = Callable[[int], None]


def read_target(to: str, shown: Credentials) -> Target:
    """Return what the options of `polku send` name; raises `SettingError`."""
    try:
        address = parse_address("--to", to)
    except PolkuError:
        allowed = "write HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH"
        raise SettingError("--to", to, allowed) from None
    token = shown.token("POLKU_TOKEN")
    proxy = _proxy(address)
    if not address.tls:
        shown.refuse_plain(f"https://{address.target}")
        return Target(address.target, None, token, proxy)
    files = {option: _read(option, path) for option, path in shown.files().items()}
    given = (files.get(option) for option in ("--root-certificates", "--key", "--certificate"))
    return Target(address.target, grpc.ssl_channel_credentials(*given), token, proxy)


def _proxy(address: Address) -> Proxy | None:
    if address.target.startswith("unix:"):
        return None
    host, _, port = address.target.rpartition(":")
    try:
        return proxy_for(host.strip("[]"), int(port), tls=address.tls)
    except ValueError as error:
        name, _, fix = str(error).partition(": ")
        raise SettingError(name, os.environ.get(name.lower()) or os.environ.get(name, ""), fix) from None


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SettingError(option, path, f"cannot be read: {error.strerror}") from None


def read_events(stream: BinaryIO, refusals: Refusals) -> Iterator[Event | None]:
    """Read NDJSON; a line that is no event is a refusal, and counted (as None)."""
    ingestor = JsonIngestor()
    context = IngestContext("ndjson")
    for number, line in enumerate(stream, 1):
        for record in ingestor.ingest(line, context):
            if isinstance(record, RecordError):
                refusals.add(record.code, f"line {number}: {record.message}")
                yield None
            else:
                yield record


async def send(
    events: Iterator[Event | None],
    *,
    to: Target,
    source: str,
    cluster: str,
    report: Report,
    advance: Advance,
    patience: float = _PATIENCE,
    refusals: Refusals | None = None,
) -> Tally:
    """Stream the events to a gateway and count what is accepted and what is refused; raises `grpc.RpcError`.

    A gateway that has not answered for `patience` seconds is reported, once until it answers again.
    """
    sender = _Sending(source, cluster, report, advance, refusals or Refusals(report))
    options = to.options
    opened = (
        grpc.aio.insecure_channel(to.address, options)
        if to.credentials is None
        else grpc.aio.secure_channel(to.address, to.credentials, options)
    )
    async with opened as channel:
        stub: Any = channel.stream_stream(_METHOD, IngestBatch.SerializeToString, Ack.FromString)
        metadata = None if to.token is None else (("authorization", f"Bearer {to.token}"),)
        call = stub(sender.batches(events), metadata=metadata)
        watching = asyncio.create_task(sender.watch(patience))
        try:
            async for ack in call:
                sender.note(ack)
        finally:
            watching.cancel()
    return Tally(sender.accepted, sender.refused)


def why(error: grpc.RpcError) -> str:
    """Return why a gateway did not take events."""
    detail = str(getattr(error, "details", error.__str__)())
    if _NO_GRPC in detail:
        return "what listens there speaks no gRPC; is it the gateway's HTTP port? `polku ps` lists its addresses"
    return detail


class _Sending:
    def __init__(self, source: str, cluster: str, report: Report, advance: Advance, refusals: Refusals) -> None:
        self._source, self._cluster = source, cluster
        self._report, self._advance, self._refusals = report, advance, refusals
        self._places = asyncio.Semaphore(_IN_FLIGHT)
        self.accepted = self.refused = 0
        self._open = 0  # batches without an answer
        self._answered_at = time.monotonic()  # or nothing was asked before

    async def batches(self, events: Iterator[Event | None]) -> AsyncIterator[IngestBatch]:
        """Yield batches as places become free; a slow standard input is read in a thread."""
        while chunk := await asyncio.to_thread(self._next, events):
            good = [event for event in chunk if event is not None]
            self.refused += len(chunk) - len(good)
            if good:
                await self._places.acquire()
                batch = IngestBatch(source=self._source, cluster=self._cluster)
                batch.events.events.extend(good)
                self._answered_at = self._answered_at if self._open else time.monotonic()
                self._open += 1
                yield batch

    async def watch(self, patience: float) -> None:
        """Report that the gateway does not answer, each time that it begins to be so."""
        reported = 0.0
        while True:
            await asyncio.sleep(min(1.0, patience / 4))
            if self._open and self._answered_at > reported and time.monotonic() - self._answered_at >= patience:
                reported = time.monotonic()
                self._report(f"polku: the gateway has not answered for {patience:g} s, and is waited for; {_SEE}")

    def note(self, ack: Ack) -> None:
        """Count one acknowledgement."""
        self._open -= 1
        self._answered_at = time.monotonic()
        self._places.release()
        self.accepted += len(ack.event_ids)
        self.refused += len(ack.errors)
        for error in ack.errors:
            text = f"{printable(error.event_id) or 'message'}: {error.code}: {error.message}"
            self._refusals.add(printable(error.code), text)
        self._advance(len(ack.event_ids) + len(ack.errors))

    def _next(self, events: Iterator[Event | None]) -> list[Event | None]:
        chunk = []
        for event in events:
            chunk.append(event)
            if len(chunk) == _BATCH:
                break
        return chunk


def one_event(id: str, type: str, payload: str, severity: str, metadata: list[str]) -> Event:
    """Return the event that options describe; raises `SettingError`."""
    entries = {}
    for entry in metadata:
        key, equals, value = entry.partition("=")
        if not key or not equals:
            raise SettingError("--metadata", entry, "write KEY=VALUE")
        entries[key] = value
    try:
        number = event_from_fields({"severity": severity}).severity
    except FieldError as error:
        raise SettingError("--severity", severity, str(error).removeprefix(f"severity={severity!r}: ")) from None
    return new_event(type, id=id, metadata=entries, payload=payload.encode(), severity=number)


def open_stream(file: str) -> tuple[BinaryIO, int | None]:
    """Return a file of events, `-` for standard input, and how many it has where that is known."""
    if file == "-":
        return sys.stdin.buffer, None
    path = Path(file)
    try:
        stream = path.open("rb")
        with path.open("rb") as count:
            return stream, sum(1 for line in count if line.strip())
    except OSError as error:
        raise SettingError("FILE", file, f"cannot be read: {error.strerror}") from None
