"""Calls that several kinds of actors answer alike."""

from __future__ import annotations

from polku.actors.shell import Shell, started
from polku.actors.wire import pack_answer, unpack_push
from polku.batch.receipt import Receipt
from polku.dead_letters import DeadLetter, DeadLetters, LetterVerb
from polku.dead_letters.store import Selection
from polku.emit.console import RelayConsole
from polku.link.link import Push
from polku.link.receiver import LinkReceiver


class ReceivesBatches(Shell):
    """An actor at the end of a link. What each batch calls does without `started`, which costs a coroutine more."""

    _receiver: LinkReceiver

    async def push(self, head: bytes, payload: bytes) -> bytes:
        """Answer when what the actor hosts has answered for the batch, or has taken it."""
        if not self._started:
            await self.ensure_started()
        return pack_answer(await self._receiver.push(*unpack_push(head, payload)))

    async def outcome(self, push: Push) -> Receipt:
        """Return the outcome of a batch that was taken."""
        if not self._started:
            await self.ensure_started()
        return await self._receiver.outcome(push)


class KeepsDeadLetters(Shell):
    """An actor whose parts make dead letters."""

    _dead_letters: DeadLetters

    @started
    async def dead_letters(self, selection: Selection | None = None) -> list[DeadLetter]:
        """Return the dead letters that are kept here, all or those that are chosen."""
        return await self._dead_letters.stored(selection)

    @started
    async def change_dead_letters(self, verb: LetterVerb, selection: Selection) -> int:
        """Replay or drop the dead letters of this node, and return how many."""
        return await self._dead_letters.change(verb, selection)


class RelaysOutput(Shell):
    """An actor whose emitters write to the standard output of the program."""

    _console: RelayConsole

    @started
    async def next_output(self, confirmed: int, fault: str) -> tuple[int, bytes]:
        """Return the next text for the program's standard output; all up to `confirmed` is written, or failed."""
        return await self._console.next(confirmed, fault)
