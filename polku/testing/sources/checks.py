"""The checks of a source: each drives it from a new origin, returns what it saw, or raises `BrokenError`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from polku.testing.conformance.driven import BrokenError
from polku.testing.sources.flow import MESSAGE_BYTES, Flow, at_rest, until, until_so
from polku.testing.sources.origin import Origin, OriginAbility

_STOP = 5.0  # what a pipeline has that can deliver everything
_CUT_OFF = 0.5  # and one that cannot


async def every_record_arrives_once_and_in_order(origin: Origin) -> str:
    """Records that are there before the source, and while it runs: all arrive, once, and in order."""
    texts = _texts(200)
    await origin.put(texts[:100])
    async with Flow(origin) as flow:
        await until(lambda: len(flow.delivered) >= 100)
        for start in range(100, 200, 20):
            await origin.put(texts[start : start + 20])
        await flow.has(texts)
        await flow.stop(_STOP)
        _once(flow.delivered, texts)
        if flow.delivered != texts:
            raise BrokenError("records arrived in another order", "push what is read in order, into one stream")
    return "200 records arrived once, in order"


async def commits_what_is_acknowledged_and_no_more(origin: Origin) -> str:
    """Records are in the pipeline and not acknowledged: none is committed; all are once they are."""
    texts = _texts(10)
    await origin.put(texts)
    async with Flow(origin, held=True) as flow:
        await until(lambda: flow.entered >= 10)
        await at_rest(lambda: flow.entered)
        if count := await origin.committed():
            fix = "commit a record when the awaitable that push returned is done, not when push returns"
            raise BrokenError(f"{count} of 10 records were committed before they were acknowledged", fix)
        flow.release()
        await flow.has(texts)
        await until_so(lambda: _has_committed(origin, 10))
        await flow.stop(_STOP)
    return "10 records were committed once they were acknowledged"


async def what_was_not_acknowledged_comes_again(origin: Origin) -> str:
    """The pipeline stops before it acknowledges the later records: the next source pulls these again."""
    texts = _texts(20)
    await origin.put(texts[:10])
    async with Flow(origin) as flow:
        await flow.has(texts[:10])
        await until_so(lambda: _has_committed(origin, 10))
        flow.hold()
        await origin.put(texts[10:])
        await until(lambda: flow.entered >= 20)
        await flow.stop(_CUT_OFF)
    if (count := await origin.committed()) > 10:
        fix = "commit nothing in drain or close whose awaitable is not done, or raised DrainingError"
        raise BrokenError(f"{count - 10} of 10 records were committed that the pipeline did not acknowledge", fix)
    async with Flow(origin) as flow:
        await flow.has(texts[10:])
        await until_so(lambda: _has_committed(origin, 20))
        await flow.stop(_STOP)
        again = set(flow.delivered) & set(texts[:10])
    if again:
        raise BrokenError(f"{len(again)} records came again that were committed", "begin behind what is committed")
    return "10 records came again, and none that was committed"


async def what_was_acknowledged_does_not_come_again(origin: Origin) -> str:
    """The pipeline stops when it has delivered everything: the next source pulls what is new, and nothing else."""
    texts = _texts(20)
    await origin.put(texts[:10])
    async with Flow(origin) as flow:
        await flow.has(texts[:10])
        await flow.stop(_STOP)
    if (count := await origin.committed()) < 10:
        fix = "return from drain when what was acknowledged is committed"
        raise BrokenError(f"{count} of 10 records were committed when the pipeline had stopped", fix)
    await origin.put(texts[10:])
    async with Flow(origin) as flow:
        await flow.has(texts[10:])
        await at_rest(lambda: flow.entered)
        await flow.stop(_STOP)
        _once(flow.delivered, texts[10:])
    return "the next source began behind what was committed"


async def a_pipeline_that_takes_nothing_bounds_what_is_pulled(origin: Origin) -> str:
    """The emitter takes nothing: about `window` records are handed in, and the rest when it takes them again."""
    texts, most = _texts(10 * origin.window), 3 * origin.window
    await origin.put(texts)
    async with Flow(origin, held=True) as flow:
        entered = await at_rest(lambda: flow.entered)
        if entered > most:
            fix = "count what push was given and what is not answered yet, and read no more than a window of it"
            raise BrokenError(f"{entered} records were in flight with a window of {origin.window}", fix)
        flow.release()
        await flow.has(texts)
        await flow.stop(_STOP)
        _once(flow.delivered, texts)
    return f"{entered} records were in flight with a window of {origin.window}"


async def it_starts_without_its_origin(origin: Origin) -> str:
    """The origin is away when the source starts: health says so, and the source goes on when it is there."""
    await origin.kill()
    async with Flow(origin) as flow:
        await until(lambda: bool(flow.alarm()))
        await origin.start()
        await origin.put(_texts(10))
        await flow.has(_texts(10))
        await until(lambda: not flow.alarm())
        await flow.stop(_STOP)
        _once(flow.delivered, _texts(10))
    return "health named it, and the source went on when it was there"


async def it_finds_its_origin_again(origin: Origin) -> str:
    """The origin goes away with records in flight, and comes back: health says so meanwhile, and nothing is lost."""
    texts = _texts(30)
    await origin.put(texts[:10])
    async with Flow(origin) as flow:
        await flow.has(texts[:10])
        flow.hold()
        await origin.put(texts[10:20])
        await until(lambda: flow.entered >= 20)
        await origin.kill()
        flow.release()
        await flow.has(texts[:20])
        await until(lambda: bool(flow.alarm()))
        await origin.start()
        await origin.put(texts[20:])
        await flow.has(texts)
        await until(lambda: not flow.alarm())
        if OriginAbility.COMMITS in origin.abilities:
            await until_so(lambda: _has_committed(origin, 30))
        await flow.stop(_STOP)
        more = len(flow.delivered) - 30
    return f"health named it, and all 30 records arrived, {more} of them more than once"


async def a_record_that_is_refused_costs_only_itself(origin: Origin) -> str:
    """A record is larger than the pipeline takes: it is a dead letter with its place, and the others arrive."""
    texts = _texts(3)
    await origin.put([texts[0], "x" * (MESSAGE_BYTES + 1024), *texts[1:]])
    async with Flow(origin) as flow:
        await flow.has(texts)
        letters = await flow.dead_letters()
        if len(letters) != 1:
            fix = "push it all the same, or push a RecordError for it"
            raise BrokenError(f"of a record that is too large there are {len(letters)} dead letters", fix)
        if OriginAbility.COMMITS in origin.abilities:
            await until_so(lambda: _has_committed(origin, 4))
        await flow.stop(_STOP)
        _once(flow.delivered, texts)
    return f"it was a dead letter: {letters[0]}"


async def it_stops_in_time(origin: Origin) -> str:
    """A stop returns with nothing to pull, with records that cannot be delivered, and without the origin."""
    async with Flow(origin) as flow:
        await flow.stop(_STOP)
    await origin.put(_texts(10))
    async with Flow(origin, held=True) as flow:
        await until(lambda: flow.entered >= 10)
        await flow.stop(_CUT_OFF)
    if OriginAbility.AWAY not in origin.abilities:
        return "it stopped idle, and held up"
    async with Flow(origin, held=True) as flow:
        await until(lambda: flow.entered >= 10)
        await origin.kill()
        await flow.stop(_CUT_OFF)
    return "it stopped idle, held up, and without its origin"


def _texts(count: int) -> list[str]:
    return [f"record-{number:05d}" for number in range(count)]


def _once(delivered: Sequence[str], texts: Sequence[str]) -> None:
    counts = Counter(delivered)
    wrong = [text for text in {*texts, *delivered} if counts[text] != (text in texts)]
    if wrong:
        seen = f"{len(wrong)} records did not arrive once, {wrong[0]} arrived {counts[wrong[0]]} times"
        raise BrokenError(seen, "push each record once, and begin behind what is committed")


async def _has_committed(origin: Origin, count: int) -> bool:
    found = await origin.committed()
    if found > count:
        raise BrokenError(f"{found} of {count} records are committed", "commit each record once")
    return found == count
