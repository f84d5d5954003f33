"""Run a NatsSource: pull, hand in, acknowledge what is in, and have the server wait for what is in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from polku.contracts import Pulled, PulledStream, SourceState
from polku.errors import EmitError, MisconfiguredError
from polku.nats.client import LOG, NatsConnection, connect, explain, server_of, tls_of
from polku.nats.emitter import MESSAGE_ID
from polku.nats.source import Decode, NatsSource, Start
from polku.pull.acked_consumer import FIRST_PAUSE, LONGEST_PAUSE, AckedConsumer

_PULL_SECONDS = 1.0
_ACK, _PROGRESS = b"+ACK", b"+WPI"
_READERS = {Decode.EVENT: ("passthrough", "event"), Decode.JSON: ("json", ""), Decode.CLOUDEVENTS: ("cloudevents", "")}


class Puller(AckedConsumer):
    """The running source."""

    def __init__(self, config: NatsSource) -> None:
        super().__init__(server_of(config), config.window, config.window_bytes, LOG)
        self._config = config
        self._tls = tls_of(config)
        self._stream: PulledStream | None = None
        self._connection: NatsConnection | None = None
        self._pulls: Any = None
        self._held: dict[str, float] = {}  # when the server was asked to wait last, by where answers go
        self._answered: list[str] = []
        self._ack_seconds = config.ack_seconds
        self._again = 0

    def state(self) -> SourceState:
        """Return a snapshot."""
        flying = self._in_flight.records
        text = f"{self._records} messages, {self._again} of them again, {flying} in flight, lag {self._lag}"
        return SourceState(text, self._fault, self._records, self._commits, self._lag, flying)

    def _open(self, open_stream: Callable[..., PulledStream]) -> None:
        config = self._config
        reader, form = _READERS.get(Decode(config.decode), ("", config.format))
        source = config.source or config.stream
        self._stream = open_stream(source, cluster=config.cluster, format=form, reader=reader)
        self._held.clear()

    async def _pull(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped.is_set():
            await self._in_flight.room()
            try:
                if self._connection is None or not self._connection.is_open or self._pulls is None:
                    await self._subscribe()
                messages = await self._fetch()
            except Exception as error:
                await self._hear(error)
                await self._pause(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._fault, pause = "", FIRST_PAUSE
            await self._hand_in(messages)

    async def _subscribe(self) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        config = self._config
        await self._disconnect()
        connection = self._connection = await connect("NatsSource", config, self._tls)
        begin = DeliverPolicy.ALL if config.start is Start.BEGINNING else DeliverPolicy.NEW
        wanted = ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=config.ack_seconds,
            max_ack_pending=max(config.window + config.read_count, 1_000),
            deliver_policy=begin,
        )
        async with asyncio.timeout(config.timeout):
            durable, stream = config.durable, config.stream
            self._pulls = await connection.streams.pull_subscribe(config.subject, durable, stream, wanted)
            found = await self._pulls.consumer_info()
        self._ack_seconds = found.config.ack_wait or config.ack_seconds

    async def _fetch(self) -> Sequence[Any]:
        """Return messages, or nothing after a second; a `stop` is seen then."""
        from nats.errors import TimeoutError as NoMessageError

        assert self._connection is not None
        count = min(self._config.read_count, self._in_flight.portion)
        fetching = asyncio.ensure_future(self._pulls.fetch(count, _PULL_SECONDS))
        try:
            await asyncio.wait([fetching, self._connection.closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if was_open := not fetching.done():
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)  # the client raises something else for it
        if was_open:
            raise ConnectionError("the connection was closed")
        try:
            messages: Sequence[Any] = fetching.result()
        except (NoMessageError, TimeoutError):
            return ()
        return messages

    async def _hand_in(self, messages: Sequence[Any]) -> None:
        if not messages:
            return
        assert self._stream is not None
        now = time.monotonic()
        records = [self._record(message) for message in messages]
        answers = [message.reply for message in messages]
        self._held.update((reply, now) for reply in answers)
        answer = await self._stream.push(records)
        self._records += len(records)
        self._again += sum(message.metadata.num_delivered > 1 for message in messages)
        self._lag = messages[-1].metadata.num_pending
        size = sum(len(message.data) for message in messages)
        self._in_flight.add(answer, len(records), size, partial(self._is_in, answers))

    def _is_in(self, answers: Sequence[str]) -> None:
        self._answered += answers
        self._news.set()

    async def _keep(self) -> None:
        """Acknowledge what is in, and have the server wait for what is in flight."""
        while True:
            await self._hear_news(min(_PULL_SECONDS, self._ack_seconds / 6))
            if not await self._acknowledge() or not await self._ask_to_wait():
                await asyncio.sleep(FIRST_PAUSE)
                self._news.set()

    async def _acknowledge(self) -> bool:
        """Acknowledge what is in; return whether the server has heard all of it."""
        async with self._acknowledging:
            answers = list(self._answered)
            if not answers:
                return True
            if not await self._publish(answers, _ACK):
                return False
            del self._answered[: len(answers)]
            for reply in answers:
                self._held.pop(reply, None)
            self._commits += 1
            return True

    async def _ask_to_wait(self) -> bool:
        now = time.monotonic()
        old = [reply for reply, since in self._held.items() if now - since >= self._ack_seconds / 3]
        if not old:
            return True
        if not await self._publish(old, _PROGRESS):
            return False
        for reply in old:
            if reply in self._held:
                self._held[reply] = now
        return True

    async def _publish(self, answers: Sequence[str], answer: bytes) -> bool:
        """Send an answer for each message, and wait until the server has all of them."""
        connection = self._connection
        if connection is None or not connection.is_open:
            return False
        try:
            async with asyncio.timeout(self._config.timeout):
                for reply in answers:
                    await connection.client.publish(reply, answer)
                await connection.client.flush(int(self._config.timeout) + 1)
        except Exception as error:
            LOG.warning("acknowledge", "%s: %s", self._server, explain(error))
            return False
        return True

    async def _disconnect(self) -> None:
        connection, self._connection, self._pulls = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def _hear(self, error: Exception) -> None:
        from nats.js.errors import NotFoundError

        text = str(error) if isinstance(error, (EmitError, MisconfiguredError)) else f"{self._server}: {explain(error)}"
        if isinstance(error, NotFoundError):
            text = f"{self._server}: stream {self._config.stream!r} is not there; make it, or name another"
        self._fault = text
        LOG.warning((self._server, type(error).__name__), "%s", text)
        await self._disconnect()

    def _record(self, message: Any) -> Pulled:
        about, headers = message.metadata, message.headers or {}
        sequence = about.sequence.stream
        metadata = {name: headers[name] for name in self._config.headers if name in headers}
        record_id = headers.get(MESSAGE_ID) or f"{about.stream}-{sequence}"
        place = f"stream {about.stream}, message {sequence} ({message.subject})"
        return Pulled(message.data, place, record_id, int(about.timestamp.timestamp() * 1e6) * 1_000, metadata)
