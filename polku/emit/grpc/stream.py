"""One StreamEvents call to one endpoint, opened when it is needed and again after it broke."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError

from polku.emit.grpc.size import is_excess_of_unknown_size
from polku.emit.parts import LateError, RefusedPartError, TooLargeError
from polku.errors import MisconfiguredError, RetryableError
from polku.rpc.client import Listener
from polku.rpc.status import Status, StatusCode
from polku.security.secret import Secret, reveal

_FRESH = 1.0
_LAST_WORD_SECONDS = 1.0  # after all Acks, for the end of a call that is to be left
_MISCONFIGURED = frozenset(
    {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED, StatusCode.UNIMPLEMENTED, StatusCode.NOT_FOUND}
)


class StreamReply(Protocol):
    """What came back for a message."""

    @property
    def fullness(self) -> float:
        """How full the other side's buffer is, from 0 to 1 (0 where it does not say)."""
        ...


A = TypeVar("A", bound=StreamReply)


@dataclass(frozen=True, slots=True)
class Dialect(Generic[A]):
    """What is said on a stream: a method that answers each message with one Ack, and how an Ack is read.

    `read` raises protobuf's `DecodeError` for what is no Ack.
    """

    method: str
    read: Callable[[bytes], A]


class CallLike(Protocol):
    """One call, as `polku.rpc` and grpcio make it."""

    async def write(self, pieces: Iterable[bytes]) -> None:
        """Send one message, given in pieces; return when it is on its way, or the call is over."""
        ...

    def end(self) -> None:
        """Say that no message follows; answers may still come."""
        ...

    def cancel(self) -> None:
        """End the call; nothing is heard of it any more."""
        ...


class ChannelLike(Protocol):
    """The connection to one endpoint."""

    @property
    def is_connected(self) -> bool:
        """Whether calls can begin at once; where not, an attempt to connect begins, unless one has just failed."""
        ...

    def begin(self, method: str, listener: Listener, metadata: Iterable[tuple[str, str]] = ()) -> CallLike:
        """Begin a call: the connection is opened if there is none."""
        ...

    async def close(self) -> None:
        """Close the connection, and whatever is still called on it."""
        ...


class GrpcStream(Generic[A]):
    """Send messages and return their Acks, which come in order; several may be in flight.

    `name` is the endpoint's in errors; `timeout` (seconds) is the limit of each answer.
    """

    def __init__(
        self, name: str, channel: ChannelLike, dialect: Dialect[A], *, timeout: float, token: str | Secret | None
    ) -> None:
        self._name = name
        self._channel = channel
        self._dialect = dialect
        self._timeout = timeout
        self._token = token
        self._conversation: _Conversation | None = None
        self._open: deque[asyncio.Future[A]] = deque()
        self._turn = asyncio.Lock()
        self._closed = False
        self._faults = 0
        self._rest_until = 0.0
        self._fullness = (0.0, 0.0)
        self.messages = self.acks = self.connects = 0

    @property
    def is_open(self) -> bool:
        """Whether a call is open."""
        return self._conversation is not None

    @property
    def load(self) -> tuple[float, int, int]:
        """What to choose the least loaded stream by: its buffer's fullness, what it owes, what it has had."""
        fullness, noted = self._fullness
        is_fresh = asyncio.get_running_loop().time() - noted < _FRESH
        return (fullness if is_fresh else 0.0, len(self._open), self.messages)

    @property
    def rests_until(self) -> float:
        """The loop's time until which the stream is better left alone; 0 where it works.

        After a failure it rests for a second, two, four, up to 30, and until a connection stands again: so no batch
        has to find out whether the endpoint is back.
        """
        if not self._faults:
            return 0.0
        if self._rest_until <= asyncio.get_running_loop().time() and self._channel.is_connected:
            return 0.0
        return self._rest_until

    async def ask(self, pieces: Iterable[bytes], fits: Callable[[A], bool] | None = None) -> A:
        """Send a message, given in pieces, and return its Ack; raises an `EmitError` where none comes in time.

        An Ack that does not fit the message is that of another one: the call ends, and nobody knows what its others
        are about.

        Cancelling it leaves the call to those that wait for their Acks, but the next message does not queue up behind
        an Ack that somebody has given up: it begins a new call.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        try:
            async with asyncio.timeout(self._timeout):
                async with self._turn:
                    conversation = await self._write(pieces, answer)
                ack = await answer
        except TimeoutError:
            error: RetryableError = LateError(f"{self._name}: no Ack within {self._timeout:g} s")
            if answer in self._open:
                self._fail(error)
            raise error from None
        if fits is None or fits(ack):
            return ack
        error = RetryableError(f"{self._name}: an Ack names none of the events of its message")
        if conversation is self._conversation:
            self._fail(error)
        raise error

    async def close(self) -> None:
        """End the call, wait a second for the Acks that are open, fail the rest, and close the channel."""
        self._closed = True
        conversation = self._conversation
        if conversation is not None:
            conversation.call.end()
            await asyncio.wait((conversation.over,), timeout=1.0)
        self._fail(RetryableError(f"{self._name}: the emitter was closed"))
        await self._channel.close()

    async def _write(self, pieces: Iterable[bytes], answer: asyncio.Future[A]) -> _Conversation:
        if self._conversation is not None and self._conversation.is_leaving:
            await self._end_of(self._conversation)  # what comes next stays behind what is in flight
        if self._closed:
            raise RetryableError(f"{self._name}: the emitter was closed")
        if self._open and self._open[0].cancelled():
            self._fail(RetryableError(f"{self._name}: an Ack before this one never came"))
        conversation = self._conversation or self._begin()
        self._open.append(answer)
        self.messages += 1
        await conversation.call.write(pieces)
        return conversation

    async def _end_of(self, conversation: _Conversation) -> None:
        """Wait for the end of a call that the other side asked to leave, and end it where that stays out."""
        while not conversation.over.done():
            await asyncio.wait((conversation.over,), timeout=_LAST_WORD_SECONDS)
            if not self._open and conversation is self._conversation:
                self._conversation = None
                conversation.call.cancel()
                conversation.close()

    def _begin(self) -> _Conversation:
        """Begin a call; raises an `EmitError` where its token or its certificates cannot be had."""
        self.connects += 1
        metadata = [("authorization", f"Bearer {reveal(self._token)}")] if self._token else []
        conversation = self._conversation = _Conversation(self._heard, self._ended)
        try:
            conversation.call = self._channel.begin(self._dialect.method, conversation, metadata)
        except OSError as error:
            self._conversation = None
            conversation.close()
            raise MisconfiguredError(f"{self._name}: {error}") from None
        return conversation

    def _heard(self, conversation: _Conversation, message: bytes) -> None:
        if conversation is not self._conversation:
            return
        try:
            answer = self._dialect.read(message)
        except DecodeError:
            conversation.call.cancel()
            self._ended(conversation, Status(StatusCode.UNIMPLEMENTED, "what answers there sends no Acks"))
            return
        self.acks += 1
        self._faults = 0
        self._fullness = (answer.fullness, asyncio.get_running_loop().time())
        if self._open:
            future = self._open.popleft()
            if not future.done():
                future.set_result(answer)

    def _ended(self, conversation: _Conversation, status: Status) -> None:
        if conversation is not self._conversation:
            return
        text = f"{self._name}: {StatusCode(status.code).name}: {status.message or 'the stream ended'}"
        if not self._open and (status.code == StatusCode.OK or conversation.is_leaving):
            self._conversation = None  # an idle stream that the other side closed in good order
            conversation.close()
        elif status.code in _MISCONFIGURED:
            self._fail(MisconfiguredError(text))
        elif status.code == StatusCode.INVALID_ARGUMENT and len(self._open) == 1:
            self._fail(RefusedPartError(text))
        elif status.code == StatusCode.RESOURCE_EXHAUSTED and len(self._open) == 1 and is_excess_of_unknown_size(text):
            self._fail(TooLargeError(text))
        else:  # of several messages in flight nobody knows which one was invalid: each is tried again alone
            self._fail(RetryableError(text))

    def _fail(self, error: Exception) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.call.cancel()
            conversation.close()
        self._rest_until = asyncio.get_running_loop().time() + min(30.0, 2.0 ** min(self._faults, 5))
        self._faults += 1
        while self._open:
            answer = self._open.popleft()
            if not answer.done():
                answer.set_exception(error)


class _Conversation:
    """One call of a stream; what is heard of an earlier one is passed on with it, and told apart by it."""

    call: CallLike

    def __init__(
        self, heard: Callable[[_Conversation, bytes], None], ended: Callable[[_Conversation, Status], None]
    ) -> None:
        self._heard = heard
        self._ended = ended
        self.is_leaving = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def close(self) -> None:
        """Let nobody wait for its end."""
        if not self.over.done():
            self.over.set_result(None)

    def answered(self, message: bytes) -> None:
        self._heard(self, message)

    def ended(self, status: Status) -> None:
        self._ended(self, status)
        self.close()

    def leaving(self, reason: str) -> None:
        """Send no more; the Acks of what was sent still come, and then the next message begins another call."""
        if not self.is_leaving:
            self.is_leaving = True
            self.call.end()


def _seen(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
