"""A unary call whose message comes in pieces, or compressed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polku.gateway.grpc.calls import Head
from polku.rpc.messages import MessageReader, Packed, too_large, unpack_in_turns, unpacking
from polku.rpc.status import CallError

if TYPE_CHECKING:
    from polku.gateway.grpc.protocol import GrpcConnection
    from polku.security.account import Account


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
        return self._checked(await unpack_in_turns(self._unpacking))

    def _checked(self, message: bytes) -> bytes:
        if len(message) > self._limit:
            raise CallError(too_large(len(message), self._limit))
        return message


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
