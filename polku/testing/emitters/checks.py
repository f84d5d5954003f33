"""The checks of an emitter: each drives it against a new destination, returns what it saw, or raises `BrokenError`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.testing.conformance.driven import BrokenError
from polku.testing.emitters.destination import Ability, Destination
from polku.testing.emitters.line import Line, batch, confirmed, still_under_way, until

_CLOSING = 10.0


async def keeps_order_and_repeats_nothing(destination: Destination) -> str:
    """Twenty batches, handed over at once: all are there, once, and in order where the destination shows it."""
    batches = [batch(number) for number in range(20)]
    async with Line(destination) as line:
        for receipt in await asyncio.gather(*map(line.push, batches)):
            confirmed(receipt)
        await _holds_once(destination, batches)
    await _holds_once(destination, batches)
    if Ability.ORDER in destination.abilities and await destination.held() != _ids(batches):
        raise BrokenError("events arrived in another order", "lower the emitter's concurrency, or send in order")
    return "20 batches arrived once" + (", in order" if Ability.ORDER in destination.abilities else "")


async def names_what_was_refused(destination: Destination) -> str:
    """Some events are refused for good: they alone fail, with a reason, and are not tried for ever."""
    await destination.refuse(["0-2", "0-5", "1-0"])
    async with Line(destination) as line:
        mixed, alone = await line.push(batch(0)), await line.push(batch(1, size=1))
    refused = {refusal.event_id: refusal.message for refusal in (*mixed.refused, *alone.refused)}
    if set(refused) != {"0-2", "0-5", "1-0"}:
        fix = "return a Failure for each event that was not taken, and for no other"
        raise BrokenError(f"of 0-2, 0-5 and 1-0, which were refused, it named {sorted(refused)}", fix)
    if not all(refused.values()):
        raise BrokenError("a Failure has no reason", "hand on what the destination said")
    await _holds_exactly(destination, [event_id for event_id in batch(0).ids if event_id not in refused])
    return "the refused events failed, each with a reason, the others arrived"


async def tries_only_again_what_failed(destination: Destination) -> str:
    """Some events are not taken for a while: they arrive later, the others are not sent again."""
    late = ["0-0", "0-3", "0-7"]
    await destination.busy(late)
    async with Line(destination) as line:
        task = line.push(batch(0))
        await until(lambda: _has(destination, set(batch(0).ids) - set(late)))
        await still_under_way([task])
        await destination.busy([])
        confirmed(await task)
        await _holds_exactly(destination, batch(0).ids)
    return "what failed was tried again, alone"


async def lets_an_event_that_cannot_be_written_cost_only_itself(destination: Destination) -> str:
    """An event that JSON has no form for, a time in the year 55,840, arrives or fails alone; the others arrive."""
    one = batch(0)
    odd = one.events[3]
    odd.process.pid = 1
    odd.process.start_time.seconds = 1_700_000_000_000
    async with Line(destination, attempts=5) as line:
        receipt = await line.push(Batch.from_events(one.events, routes=()))
        refused = [refusal.event_id for refusal in receipt.refused]
        if refused not in ([], [odd.id]):
            fix = "serialise events one by one, and return a Failure with retryable=False for one that cannot be"
            raise BrokenError(f"one event cannot be written, and {refused} failed", fix)
        await _holds_exactly(destination, [event_id for event_id in one.ids if event_id not in refused])
    return "it failed alone" if refused else "it arrived too"


async def waits_for_the_confirmation(destination: Destination) -> str:
    """The destination takes but does not confirm: nothing is confirmed, and everything goes on when it does."""
    batches = [batch(number) for number in range(12)]
    async with Line(destination) as line:
        await destination.hang()
        tasks = [line.push(one) for one in batches]
        await until(destination.is_waited_for)
        await still_under_way(tasks)
        await destination.resume()
        for receipt in await asyncio.gather(*tasks):
            confirmed(receipt)
        await _holds(destination, batches)
    return "nothing was confirmed before the destination did"


async def finds_it_again(destination: Destination) -> str:
    """The destination dies and comes back: what was sent meanwhile waits, and arrives."""
    async with Line(destination) as line:
        await line.confirm(batch(0))
        await destination.kill()
        tasks = [line.push(batch(number)) for number in (1, 2)]
        await still_under_way(tasks)
        await destination.start()
        for receipt in await asyncio.gather(*tasks):
            confirmed(receipt)
        await line.confirm(batch(3))
        await _holds_once(destination, [batch(number) for number in range(4)])
    return "it was found again, and nothing sent twice"


async def starts_without_it(destination: Destination) -> str:
    """The destination is down when the emitter starts: it starts all the same, and delivers later."""
    await destination.kill()
    try:
        async with Line(destination) as line:
            task = line.push(batch(0))
            await still_under_way([task])
            await destination.start()
            confirmed(await task)
            await _holds_once(destination, [batch(0)])
    except (OSError, RuntimeError) as error:
        raise BrokenError(f"start raised {type(error).__name__}: {error}", "connect at the first batch") from error
    return "it started, and delivered when the destination was there"


async def loses_nothing_when_it_dies_unconfirmed(destination: Destination) -> str:
    """The destination dies between taking a batch and confirming it: the batch is sent again."""
    batches = [batch(number) for number in range(3)]
    async with Line(destination) as line:
        await destination.hang()
        tasks = [line.push(one) for one in batches]
        await until(destination.is_waited_for)
        await destination.kill()
        await destination.resume()
        await destination.start()
        for receipt in await asyncio.gather(*tasks):
            confirmed(receipt)
        return await _repeated(destination, batches)


async def loses_nothing_when_the_emitter_dies(destination: Destination) -> str:
    """The emitter dies between sending a batch and its confirmation: another one sends the same batch again."""
    one = batch(0)
    async with Line(destination) as line:
        await destination.hang()
        task = line.push(one)
        await until(destination.is_waited_for)
        await still_under_way([task], 0)
        await line.abandon()
    await destination.resume()
    async with Line(destination) as line:
        await line.confirm(batch(0))
        return await _repeated(destination, [one])


async def keeps_its_word_when_it_is_closed(destination: Destination) -> str:
    """It is closed in the middle: it ends soon, and what it has confirmed is there."""
    batches = [batch(number) for number in range(20)]
    line = Line(destination)
    async with line:
        tasks = [line.push(one) for one in batches]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        try:
            async with asyncio.timeout(_CLOSING):
                await line.delivery.close()
        except TimeoutError:
            fix = "bound what close waits for; what is not confirmed then is sent again later"
            raise BrokenError(f"close did not return within {_CLOSING:g} s", fix) from None
        kept = [one for one, task in zip(batches, tasks, strict=True) if _is_confirmed(task)]
    await _holds(destination, kept)
    return f"{len(kept)} of 20 batches were confirmed before it ended, and are there"


async def closes_twice(destination: Destination) -> str:
    """It can be closed twice, without a batch, and without having been started."""
    await Line(destination).close()
    async with Line(destination) as line:
        await line.close()
    async with Line(destination) as line:
        await line.confirm(batch(0))
        await line.close()
    return "it was closed twice, and without having been started"


def _ids(batches: Sequence[Batch]) -> list[str]:
    return [event_id for one in batches for event_id in one.ids]


def _is_confirmed(task: asyncio.Task[Receipt]) -> bool:
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    return not task.result().refused


async def _has(destination: Destination, ids: Collection[str]) -> bool:
    return set(ids) <= set(await destination.held())


async def _holds(destination: Destination, batches: Sequence[Batch]) -> Counter[str]:
    held = Counter(await destination.held())
    missing = [event_id for event_id in _ids(batches) if not held[event_id]]
    if missing:
        seen = f"{len(missing)} events were confirmed and are not there, {missing[0]} for one"
        raise BrokenError(seen, "return from emit, without a Failure for it, only when an event is safe")
    return held


async def _holds_once(destination: Destination, batches: Sequence[Batch]) -> None:
    held = await _holds(destination, batches)
    twice = [event_id for event_id in _ids(batches) if held[event_id] > 1]
    if twice:
        raise BrokenError(f"{len(twice)} events are there twice, {twice[0]} for one", "send again only what failed")


async def _holds_exactly(destination: Destination, ids: Sequence[str]) -> None:
    held = await destination.held()
    if sorted(held) != sorted(ids):
        missing, more = Counter(ids) - Counter(held), Counter(held) - Counter(ids)
        seen = f"missing are {sorted(missing)}, too many {sorted(more.elements())}"
        raise BrokenError(seen, "fail exactly the events that were not taken")


async def _repeated(destination: Destination, batches: Sequence[Batch]) -> str:
    if Ability.UNIQUE in destination.abilities:
        await _holds_once(destination, batches)
        return "everything is there once"
    held = await _holds(destination, batches)
    return f"everything is there, {sum(count > 1 for count in held.values())} events more than once"
