"""The next actor, as a link sees it.

What a link pushes goes through a socket where the actor is on this node, and by calls of Ray where it is not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray.exceptions

from polku.actors.names import find
from polku.actors.socket_channel import LostError, SocketChannel, reach, this_node
from polku.actors.wire import pack_push, unpack_answer
from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Deferred, Receipt, Turn
from polku.errors import PolkuError, UnavailableError
from polku.link.link import Push
from polku.text import named

_PAUSE = 0.2  # seconds between two questions to an actor that is on its way back
_ASKING = 6  # questions that have no answer yet

# A push that takes longer is repeated under the same identity: the receiver, if it lives, answers both alike.
_DEADLINE = 30.0

# Of an actor that takes longer to answer over a socket Ray is asked whether it lives: its process may go on without it.
_DOUBT = 2.0


class _LateError(UnavailableError):
    """Say that there is no answer yet."""


class ObjectRefQueue:
    """Call `push` and `outcome` of an actor; whatever leaves the outcome unknown raises `UnavailableError`.

    That is every exception but those of our own tree, which a receiver raises on purpose.

    `actor` is a handle, or the name of one that is looked for when it is needed. One that hosts several parts is told
    `after` which stage the batches come.
    """

    def __init__(self, actor: Any, name: str, after: str = "") -> None:
        self._actor_name = actor if isinstance(actor, str) else ""
        self._handle = None if self._actor_name else actor
        self._name = name
        self._after = (after,) if after else ()
        self._life = 0
        self._shortcut: SocketChannel | None = None
        self._tried = 0  # the life of the actor in which it was asked for a shortcut
        self._trying = asyncio.Lock()

    async def push(self, push: Push, batch: Batch) -> Answer | Turn:
        """Send a batch: its head and, by value, its payload."""
        answer = unpack_answer(await self._push(push, batch))
        return Accepted(Deferred(self._outcome, push)) if answer is None else answer

    async def flush(self, everything: bool) -> None:
        """Let the actor release what it holds."""
        await self._call("flush", everything)

    async def _push(self, push: Push, batch: Batch) -> bytes:
        if not self._life:
            self._life = await self._ask_life()
        head, payload = pack_push(push, batch)
        shortcut = await self._short_way()
        if shortcut is not None:
            return await self._hear(shortcut, shortcut.ask("push", (head, *self._after), payload))
        answer: bytes = await self._call("push", head, payload, *self._after)
        return answer

    async def _outcome(self, push: Push) -> Receipt:
        """Ask for the receipt of a batch that was accepted."""
        while True:
            try:
                shortcut = await self._short_way()
                if shortcut is not None:
                    return _receipt(await self._hear(shortcut, shortcut.ask("outcome", (push, *self._after))))
                receipt: Receipt = await self._call("outcome", push, *self._after)
            except _LateError:  # it is held for longer: pushing it again would not help
                continue
            return receipt

    async def _short_way(self) -> SocketChannel | None:
        """Return the shortcut, asked for once in each life of the actor; None where there is none."""
        if self._shortcut is not None and self._shortcut.is_open:
            return self._shortcut
        if self._tried == self._life:
            return None
        async with self._trying:
            if self._tried != self._life:
                life = self._life
                self._shortcut = await reach(await self._call("listen", this_node()))
                self._tried = life
        return self._shortcut if self._shortcut is not None and self._shortcut.is_open else None

    async def _hear(self, shortcut: SocketChannel, answer: asyncio.Future[bytes]) -> bytes:
        """Wait for an answer over a socket, which is closed where Ray knows of another life of the actor."""
        before = self._life
        done, _ = await asyncio.wait((answer,), timeout=_DOUBT)
        if not done:
            asking = asyncio.ensure_future(self._ask_life())
            try:
                await asyncio.wait((answer, asking), return_when=asyncio.FIRST_COMPLETED)
            finally:
                asking.cancel()  # does nothing to one that has its answer
            if asking.done() and not answer.done() and asking.result() not in (0, before):
                self._life = asking.result()
                shortcut.close()
                raise UnavailableError(f"{self._name} does not answer: it has another process by now", died=True)
        heard: bytes = await self._wait(answer)
        return heard

    async def _call(self, method: str, *arguments: object) -> Any:
        handle = self._handle or await self._find()
        try:
            ref = getattr(handle, method).remote(*arguments)
        except ray.exceptions.RayError as error:  # too many calls are open, or Ray does not answer
            raise UnavailableError(f"{self._name} cannot be called: {named(error)}") from None
        return await self._wait(asyncio.wrap_future(ref.future()))

    async def _wait(self, answer: asyncio.Future[Any]) -> Any:
        done, _ = await asyncio.wait((answer,), timeout=_DEADLINE)
        if not done:
            answer.cancel()
            raise _LateError(f"{self._name} has not answered within {_DEADLINE:.0f} s")
        try:
            return answer.result()
        except (ray.exceptions.RayActorError, LostError) as error:
            died = await self._has_died()
            raise UnavailableError(f"{self._name} does not answer: {error}", died=died) from None
        except Exception as error:
            raise _explain(self._name, error) from None

    async def _has_died(self) -> bool:
        """Wait until the actor answers again, and say whether that is another life of it."""
        before, self._life = self._life, await self._ask_life()
        return before not in (0, self._life)

    async def _ask_life(self) -> int:
        """Return the number of the actor's life; 0 where it does not answer in time.

        A call that is made while the actor dies fails after up to two seconds: by then it may be back, and is asked by
        another one.
        """
        asking: set[asyncio.Task[int]] = set()
        try:
            async with asyncio.timeout(_DEADLINE):
                while True:
                    if len(asking) < _ASKING:
                        asking.add(asyncio.ensure_future(self._life_now()))
                    done, asking = await asyncio.wait(asking, timeout=_PAUSE, return_when=asyncio.FIRST_COMPLETED)
                    if life := max((one.result() for one in done), default=0):
                        return life
                    if done:
                        await asyncio.sleep(_PAUSE)
        except TimeoutError:
            return 0
        finally:
            for one in asking:
                one.cancel()

    async def _life_now(self) -> int:
        """Return the number of the actor's life; 0 where it does not answer now."""
        try:
            handle = self._handle or await self._find()
            return int(await handle.life.remote())
        except (ray.exceptions.RayError, UnavailableError):
            if self._actor_name:  # another may have its name by now
                self._handle = None
            return 0

    async def _find(self) -> Any:
        self._handle = await asyncio.to_thread(find, self._actor_name)
        return self._handle


def _explain(name: str, error: Exception) -> PolkuError:
    """Return what an actor says with an exception: an error of ours, or that nothing is known of the batch.

    The latter is what Ray raises itself, and what kept an actor that was restarted from starting.
    """
    cause = getattr(error, "cause", None) or error
    return cause if isinstance(cause, PolkuError) else UnavailableError(f"{name} failed: {named(cause)}")


def _receipt(answer: bytes) -> Receipt:
    receipt = unpack_answer(answer)
    assert isinstance(receipt, Receipt)
    return receipt
