"""A unary call whose message comes in pieces, or compressed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from polku.aio.slices import in_slices
from polku.gateway.grpc.calls import Head, StreamCall
from polku.rpc.messages import MessageReader, Packed, too_large, unpacking
from polku.rpc.status import CallError, Status, StatusCode

if TYPE_CHECKING:
    from polku.gateway.grpc.protocol import GrpcConnection
    from polku.security.account import Account


LATE = Status(StatusCode.DEADLINE_EXCEEDED, "the deadline of the call is over")


class RefusedCall(Struct, frozen=True):
    """A call whose answer is known before its messages come."""

    status: Status


class UnaryCall:
    """A unary call whose body has not come as one whole, plain message."""

    __slots__ = ("_limit", "_unpacking", "account", "head", "messages", "reader")

    def __init__(self, head: Head, account: Account | None, limit: int, plain_limit: int) -> None:
        self.head = head
        self.account = account
        self.reader = MessageReader(limit, plain_limit)
        self.reader.keeps_packed = True
        self.messages: list[bytes] = []
        self._limit = plain_limit

    def plain(self) -> bytes | None:
        """Return its message without compression; None where that takes more than a step. Raises `CallError`."""
        message = self.messages[0]
        if type(message) is not Packed:
            return message
        self._unpacking = unpacking(message, self._limit)
        try:
            next(self._unpacking)
        except StopIteration as end:
            return self._checked(end.value)
        return None

    async def unpack(self) -> bytes:
        """Return what `plain` did not; raises `CallError`."""
        return self._checked(await in_slices(self._unpacking))

    def _checked(self, message: bytes) -> bytes:
        if len(message) > self._limit:
            raise CallError(too_large(len(message), self._limit))
        return message


def is_owed(app: Any) -> bool:
    """Return whether the client has begun a message, and nothing here keeps it from sending the rest."""
    return isinstance(app, UnaryCall) or (isinstance(app, StreamCall) and not app.is_held and bool(app.reader.buffer))


def too_slow(reason: str) -> Status:
    """Return the status of a call whose message comes too slowly."""
    return Status(StatusCode.DEADLINE_EXCEEDED, f"{reason}; send it again")


def end_late(connection: GrpcConnection, number: int) -> None:
    """End a call whose deadline is over: what was taken of it stays taken, and nothing more is."""
    stream = connection.streams.get(number)
    if stream is not None and isinstance(stream.app, StreamCall):
        stream.app.end(LATE)
    else:
        connection.refuse(number, LATE)


async def unpack_later(connection: GrpcConnection, number: int, call: UnaryCall, one_by_one: asyncio.Lock) -> None:
    """Decompress the message of a call, one of the port at a time; what waits counts as its address's."""
    size = len(call.messages[0])
    connection.count_waiting(size)
    try:
        async with one_by_one:
            message = await call.unpack()
            connection.take_late(number, call, message)
    except CallError as error:
        connection.refuse(number, error.status)
    finally:
        connection.count_waiting(-size)
