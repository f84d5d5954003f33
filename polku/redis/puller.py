"""Run a RedisStreamsSource: read, hand in, acknowledge what is in, and keep what is in flight from other consumers."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from polku.contracts import Pulled, PulledStream, SourceState
from polku.errors import MisconfiguredError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.ids import new_id
from polku.pull.acked_consumer import FIRST_PAUSE, LONGEST_PAUSE, AckedConsumer
from polku.redis.client import LOG, Kind, explain, kind_of, open_client, server_of, tls_of
from polku.redis.source import Decode, RedisStreamsSource, Start

_BLOCK_SECONDS = 1.0
_LAG_SECONDS = 5.0
_CHUNK = 1_000
_READERS = {Decode.EVENT: ("passthrough", "event"), Decode.JSON: ("json", ""), Decode.CLOUDEVENTS: ("cloudevents", "")}

_Entry: TypeAlias = "tuple[bytes, Mapping[bytes, bytes] | None]"


class Puller(AckedConsumer):
    """The running source."""

    def __init__(self, config: RedisStreamsSource) -> None:
        super().__init__(server_of(config.url), config.window, config.window_bytes, LOG)
        self._config = config
        self._tls = tls_of(config)
        self._consumer = f"polku-{socket.gethostname()}-{os.getpid()}-{new_id()}"
        self._client: Any = None
        self._streams: dict[str, PulledStream] = {}
        self._held: dict[str, dict[bytes, float]] = {name: {} for name in config.names}  # when each was taken
        self._answered: dict[str, list[bytes]] = defaultdict(list)
        self._claimed = 0

    def state(self) -> SourceState:
        """Return a snapshot."""
        flying = self._in_flight.records
        text = f"{self._records} entries, {self._claimed} of them claimed, {flying} in flight, lag {self._lag}"
        return SourceState(text, self._fault, self._records, self._commits, self._lag, flying)

    def _open(self, open_stream: Callable[..., PulledStream]) -> None:
        config = self._config
        reader, form = _READERS.get(Decode(config.decode), ("", config.format))
        for name in config.names:
            source = config.source or name
            self._streams[name] = open_stream(source, cluster=config.cluster, format=form, reader=reader)
        for held in self._held.values():
            held.clear()

    async def _pull(self) -> None:
        pause, claim_at, is_there = FIRST_PAUSE, 0.0, False
        while not self._stopped.is_set():
            await self._in_flight.room()
            try:
                if not is_there:
                    await self._make_groups()
                    is_there = True
                if time.monotonic() >= claim_at:
                    claim_at = time.monotonic() + self._config.claim_seconds / 2
                    await self._claim()
                taken = await self._read()
            except Exception as error:
                if not self._is_of_server(error):
                    raise
                self._hear(error)
                is_there = False
                await self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._fault, pause = "", FIRST_PAUSE
            for name, entries in taken:
                await self._hand_in(name, entries)

    async def _make_groups(self) -> None:
        from redis.exceptions import ResponseError

        start = "0" if self._config.start is Start.BEGINNING else "$"
        for name in self._config.names:
            try:
                await self._call("xgroup_create", name, self._config.group, start, mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def _read(self) -> list[tuple[str, list[_Entry]]]:
        """Return new entries, or nothing after a second; a `stop` is seen then."""
        config = self._config
        streams = dict.fromkeys(config.names, ">")
        block = int(min(_BLOCK_SECONDS, config.timeout / 2) * 1_000)
        arguments = (config.group, self._consumer, streams)
        found = await self._call("xreadgroup", *arguments, count=self._count(), block=block)
        return [(_text(name), entries) for name, entries in found or ()]

    async def _claim(self) -> None:
        """Take over what other consumers, and those of processes that are gone, did not acknowledge."""
        for name in self._config.names:
            start: Any = "0-0"
            while not self._stopped.is_set():
                idle = int(self._config.claim_seconds * 1_000)
                arguments = (name, self._config.group, self._consumer, idle, start)
                start, entries, *_ = await self._call("xautoclaim", *arguments, count=self._count())
                entries = [entry for entry in entries if entry[0] not in self._held[name]]
                self._claimed += len(entries)
                await self._hand_in(name, entries)
                await self._in_flight.room()
                if start in (b"0-0", "0-0"):
                    break

    def _count(self) -> int:
        return min(self._config.read_count, self._in_flight.portion)

    async def _hand_in(self, name: str, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        gone = [entry_id for entry_id, fields in entries if fields is None]  # deleted since, in servers before 7
        self._answered[name] += gone
        there = [(entry_id, fields) for entry_id, fields in entries if fields is not None]
        now = time.monotonic()
        self._held[name].update((entry_id, now) for entry_id, _ in there)
        records = [self._record(name, entry_id, fields) for entry_id, fields in there]
        answer = await self._streams[name].push(records)
        self._records += len(records)
        size = sum(len(value) for _, fields in there for value in fields.values())
        ids = [entry_id for entry_id, _ in there]
        self._in_flight.add(answer, len(records), size, partial(self._is_in, name, ids))

    def _is_in(self, name: str, ids: Sequence[bytes]) -> None:
        self._answered[name] += ids
        self._news.set()

    async def _keep(self) -> None:
        """Acknowledge what is in, keep what is in flight, and see what waits."""
        keep_at = lag_at = 0.0
        while True:
            await self._hear_news(_BLOCK_SECONDS)
            is_well = await self._acknowledge()
            now = time.monotonic()
            try:
                if is_well and now >= keep_at:
                    keep_at = now + self._config.claim_seconds / 4
                    await self._keep_in_flight(now)
                if is_well and now >= lag_at:
                    lag_at = now + _LAG_SECONDS
                    self._lag = await self._waiting()
            except Exception as error:
                self._hear(error)
                is_well = False
            if not is_well:
                await asyncio.sleep(_BLOCK_SECONDS)
                self._news.set()

    async def _acknowledge(self) -> bool:
        """Acknowledge what is in; return whether all of it is."""
        async with self._acknowledging:
            for name, ids in self._answered.items():
                while ids:
                    chunk = ids[:_CHUNK]
                    try:
                        await self._call("xack", name, self._config.group, *chunk)
                        if self._config.delete:
                            await self._call("xdel", name, *chunk)
                    except Exception as error:
                        if not self._is_of_server(error):
                            raise
                        self._hear(error)
                        return False
                    del ids[: len(chunk)]
                    for entry_id in chunk:
                        self._held[name].pop(entry_id, None)
                    self._commits += 1
        return True

    async def _keep_in_flight(self, now: float) -> None:
        """Reset the idle time of entries that are in flight for long, so that no other consumer claims them."""
        for name, held in self._held.items():
            old = [entry_id for entry_id, since in held.items() if now - since >= self._config.claim_seconds / 4]
            for start in range(0, len(old), _CHUNK):
                arguments = (name, self._config.group, self._consumer, 0, old[start : start + _CHUNK])
                await self._call("xclaim", *arguments, justid=True)

    async def _waiting(self) -> int:
        """Return how many entries the group has not been given yet, as far as the server knows (Redis 7)."""
        lag = 0
        for name in self._config.names:
            for group in await self._call("xinfo_groups", name):
                if _text(group["name"]) == self._config.group:
                    lag += group.get("lag") or 0
        return lag

    async def _leave(self) -> None:
        """Take this consumer out of the group where nothing is left that it has to answer for."""
        for name in self._config.names:
            arguments = (name, self._config.group, "-", "+", 1)
            if not await self._call("xpending_range", *arguments, consumername=self._consumer):
                await self._call("xgroup_delconsumer", name, self._config.group, self._consumer)

    async def _call(self, command: str, *arguments: Any, **options: Any) -> Any:
        if self._client is None:
            self._client = open_client("RedisStreamsSource", self._config, self._tls, timeout=self._config.timeout)
        try:
            async with asyncio.timeout(self._config.timeout + 1.0):  # it has its own, and says more
                return await getattr(self._client, command)(*arguments, **options)
        except Exception as error:
            if self._is_of_server(error) and kind_of(error) is Kind.ACCESS:
                await self._disconnect()  # the next one reads the secrets again
            raise

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _is_of_server(self, error: Exception) -> bool:
        from redis.exceptions import RedisError

        return isinstance(error, (RedisError, OSError, MisconfiguredError))

    def _hear(self, error: BaseException) -> None:
        self._fault = f"{self._server}: {explain(error)}"
        LOG.warning((self._server, type(error).__name__), "%s", self._fault)

    def _record(self, name: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Pulled:
        shown = entry_id.decode()
        milliseconds = int(shown.partition("-")[0])
        metadata = {header: _text(fields[header.encode()]) for header in self._headers(fields)}
        place, record_id = f"stream {name}, entry {shown}", f"{name}-{shown}"
        return Pulled(self._content(fields), place, record_id, milliseconds * 1_000_000, metadata)

    def _headers(self, fields: Mapping[bytes, bytes]) -> Iterable[str]:
        return (header for header in self._config.headers if header.encode() in fields)

    def _content(self, fields: Mapping[bytes, bytes]) -> Event | bytes | RecordError:
        if self._config.decode is Decode.FIELDS:
            import msgspec

            payload = msgspec.json.encode({_text(key): _text(value) for key, value in fields.items()})
            return Event(event_type=self._config.event_type, payload=payload)
        data = fields.get(self._config.data_field.encode())
        if data is None:
            has = ", ".join(map(_text, list(fields)[:10]))
            return RecordError(f"it has no field {self._config.data_field!r}, but {has}; choose data_field or decode")
        return data


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
