"""Raw bytes of a stream that are ingested while the stream is read further."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from polku.aio.sequencer import Sequencer, Ticket
from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import InputError
from polku.gateway.admission import Admission
from polku.gateway.intake_statistics import IntakeCounters
from polku.gateway.room import Room
from polku.log import RepeatedLog
from polku.text import named
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack

if TYPE_CHECKING:
    from polku.security.account import Account

_REPEATED = RepeatedLog(logging.getLogger(__name__))


class Admit(Protocol):
    """Have an ingestor read raw bytes, as `Intake.admit_raw` does."""

    async def __call__(
        self, data: bytes, context: IngestContext, reader: str, account: Account | None = None, /
    ) -> Admission:
        """Return what was admitted of them; raises `InputError`."""
        ...


class PushMessage(Protocol):
    """Send what was admitted of a message of `size` bytes, which came this `way`."""

    async def __call__(self, admission: Admission, size: int, way: str, /) -> Awaitable[Ack]:
        """Return the awaitable of its Ack."""
        ...


class Refuse(Protocol):
    """Refuse a message that came this `way` as a whole."""

    def __call__(self, code: Code, message: str, way: str, /) -> Awaitable[Ack]:
        """Return the awaitable of its Ack."""
        ...


class StreamIngest:
    """Ingest several messages of a stream at once; their events leave in the order of the messages."""

    def __init__(self, admit: Admit, push: PushMessage, refuse: Refuse, counters: IntakeCounters, room: Room) -> None:
        self._admit, self._push, self._refuse = admit, push, refuse
        self._counters = counters
        self._room = room
        self._ingesting: set[asyncio.Task[Any]] = set()

    async def drain(self) -> None:
        """Return when nothing is being ingested."""
        while self._ingesting:
            await asyncio.wait(self._ingesting)

    def start(
        self, data: bytes, context: IngestContext, turns: Sequencer, size: int, account: Account | None
    ) -> Awaitable[Ack]:
        """Ingest while the stream is read on; cancelled or not, the bytes count as in flight until that is done."""
        self._counters.open_bytes += size
        task = asyncio.get_running_loop().create_task(self._ingest(data, context, turns.take(), size, account))
        self._ingesting.add(task)
        task.add_done_callback(self._ingesting.discard)
        return task

    async def _ingest(
        self, data: bytes, context: IngestContext, ticket: Ticket, size: int, account: Account | None
    ) -> Ack:
        counted = size
        try:
            admission = await self._admit(data, context, context.source, account)
            await ticket.wait()
            self._counters.open_bytes, counted = self._counters.open_bytes - counted, 0
            answer = await self._push(admission, size, "stream")
        except InputError as error:
            answer = self._refuse(error.code, error.message, "stream")
        except BaseException as error:
            if is_ours(error):
                raise
            _REPEATED.exception("answer", "raw bytes could not be taken in")
            answer = self._refuse(Code.UNAVAILABLE, f"the gateway failed: {named(error)}; send it again", "stream")
        finally:
            self._counters.open_bytes -= counted
            self._room.free()
            ticket.done()
        return await answer
