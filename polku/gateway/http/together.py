"""Requests that one turn of the event loop has brought travel as one batch, and are answered one by one."""

from __future__ import annotations

import asyncio

from polku.aio.eager import start_eagerly
from polku.gateway.admission import Admission
from polku.gateway.intake import Intake
from polku.usercode import is_ours
from polku.v1.gateway_pb2 import Ack

_BYTES = 1 << 20  # of requests that are pushed together


class Together:
    """Push what was admitted of small requests."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._waiting: list[tuple[Admission, asyncio.Future[Ack]]] = []
        self._size = 0
        self._open: set[asyncio.Future[None]] = set()

    def push(self, admission: Admission, size: int) -> asyncio.Future[Ack]:
        """Send the events of a request of `size` bytes with those of others; return the future of its Ack."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Ack] = loop.create_future()
        self._waiting.append((admission, answer))
        size += admission.filled_bytes
        self._size += size
        self._intake.room.hold(size)
        if len(self._waiting) == 1:
            loop.call_soon(self._leave)
        elif self._size >= _BYTES:
            self._leave()
        return answer

    def _leave(self) -> None:
        if not self._waiting:
            return
        waiting, size, self._waiting, self._size = self._waiting, self._size, [], 0
        self._intake.room.release(size)  # pushed, they count as its events'
        work = start_eagerly(self._answer(waiting, size))
        if not work.done():
            self._open.add(work)
            work.add_done_callback(self._open.discard)

    async def _answer(self, waiting: list[tuple[Admission, asyncio.Future[Ack]]], size: int) -> None:
        try:
            acks = await self._intake.together([admission for admission, _ in waiting], size, "http")
        except BaseException as error:
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(RuntimeError("it was ended") if is_ours(error) else error)
            if is_ours(error):
                raise
            return
        for (_, answer), ack in zip(waiting, acks, strict=True):
            if not answer.done():
                answer.set_result(ack)
