"""The ingestors of a gateway: which one reads the bytes of a source, and what becomes of what it returns."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from polku.batch.receipt import Refusal
from polku.checks import label, shorten
from polku.codes import Code
from polku.contracts import IngestContext, Ingestor, Reply
from polku.errors import InputError, PolkuError, RecordError
from polku.event.v1.event_pb2 import Event
from polku.gateway.event_limits import check_envelope
from polku.hooks import CLOSE_SECONDS, call_hook, close_hook, start_hook
from polku.ingest.inherited import is_of_ingest
from polku.limits import Limits
from polku.log import RepeatedLog
from polku.text import as_id, named, said
from polku.usercode import is_ours

if TYPE_CHECKING:
    from polku.external.client import PluginState
    from polku.gateway.plain import MakePlain, ReadPlain

_REPEATED = RepeatedLog(logging.getLogger(__name__))
_TURN = 50  # records of an ingestor, which take a millisecond or so, until others have theirs
_TURN_SECONDS = 0.002  # where they take longer


class Reading(NamedTuple):
    """What an ingestor has read: events, refusals of records, and the answer that it has for the sender, if any."""

    events: list[Event]
    refused: list[Refusal]
    reply: Reply | None = None


class Ingestors:
    """Let the ingestor of a source, or the default one, read the bytes that come from it."""

    def __init__(self, by_source: Mapping[str, Ingestor], default: Ingestor | None, limits: Limits) -> None:
        self._by_source = dict(by_source)
        self._default = default
        self._limits = limits
        self._unopened = set(map(id, self._each_once()))
        self._plugins_due = 0.0
        self._reading: Counter[int] = Counter()  # calls that are open, by the ingestor's id
        self._read = asyncio.Event()
        self.version = 0  # it rises with each change of who reads what

    async def start(self) -> None:
        """Call the `start` of each one."""
        for ingestor in self._each_once():
            self._unopened.discard(id(ingestor))
            await start_hook(f"ingestor {label(ingestor)}", ingestor)

    def closing(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return the name and the `close` of each one that was started, for `close_each`."""
        return [
            (f"ingestor {label(ingestor)}", partial(call_hook, ingestor, "close", seconds=CLOSE_SECONDS))
            for ingestor in self._each_once()
            if id(ingestor) not in self._unopened
        ]

    def exchange(
        self, by_source: Mapping[str, Ingestor], default: Ingestor | None, gone: Collection[str]
    ) -> list[Ingestor]:
        """Let these ingestors, which are started, serve their sources; return those that serve nothing any more.

        Sources that are `gone` have none; those of plugins that have registered stay.
        """
        before = self._each_once()
        self.version += 1
        staying = {source: ingestor for source, ingestor in self._by_source.items() if source not in gone}
        self._by_source, self._default = {**staying, **by_source}, default
        known = set(map(id, self._each_once()))
        return [ingestor for ingestor in before if id(ingestor) not in known]

    async def end(self, ingestors: Sequence[Ingestor]) -> None:
        """Close ingestors that serve nothing any more, each once it has read what it was given."""
        for ingestor in ingestors:
            while self._reading[id(ingestor)]:
                self._read.clear()
                await self._read.wait()
            await close_hook(f"ingestor {label(ingestor)}", ingestor)

    def of(self, source: str) -> Ingestor:
        """Return the ingestor of a source that has one of its own; raises `KeyError`."""
        return self._by_source[source]

    @property
    def default(self) -> Ingestor | None:
        """The ingestor for all sources that have none of their own."""
        return self._default

    def bound(self, limits: Limits) -> None:
        """Hold what comes from now on to these limits."""
        self._limits = limits

    def serve(self, source: str, ingestor: Ingestor) -> None:
        """Let an ingestor, which is started, serve a source from now on."""
        self._by_source[source] = ingestor
        self.version += 1

    def expect_plugins(self, seconds: float) -> None:
        """Answer UNAVAILABLE, not UNKNOWN_SOURCE, for so long: after a restart plugins have yet to register again."""
        self._plugins_due = time.monotonic() + seconds

    def serves(self, source: str) -> bool:
        """Return whether a source has an ingestor of its own."""
        return source in self._by_source

    def own(self, source: str) -> Ingestor | None:
        """Return the ingestor that serves this source alone, if there is one."""
        return self._by_source.get(source)

    def verifies(self, source: str) -> bool:
        """Return whether the ingestor of a source finds out itself who has sent something (a `HmacVerifier`)."""
        return getattr(self._by_source.get(source), "authenticates", False) is True

    def takes_several(self, source: str) -> bool:
        """Return whether the ingestor of a source reads several messages at once."""
        return getattr(self._by_source.get(source, self._default), "concurrency", 1) > 1

    def plain_reader(self, reader: str, context: IngestContext, limits: Limits) -> ReadPlain | None:
        """Return what reads plain records of a source at once; None where its ingestor is none that has it itself.

        What inherits from such an ingestor may read otherwise.
        """
        ingestor = self._by_source.get(reader, self._default)
        make: MakePlain | None = getattr(ingestor, "plain_reader", None) if _has_own(type(ingestor)) else None
        return None if make is None else make(context, limits)

    @property
    def has_default(self) -> bool:
        """Whether there is an ingestor for all sources that have none of their own."""
        return self._default is not None

    async def read(self, data: bytes, context: IngestContext, reader: str, *, in_turns: bool = False) -> Reading:
        """Let the ingestor of the source `reader` read bytes that come from `context.source`; raises `InputError`.

        With `in_turns` others have their turn meanwhile, also where the ingestor is not async.
        """
        check_envelope(self._limits, context.source, context.cluster, context.format)
        ingestor = self._find(reader, context.source)
        self._reading[id(ingestor)] += 1
        try:
            takes_turns = in_turns and is_of_ingest(ingestor, "takes_turns") and getattr(ingestor, "takes_turns", False)
            has_slices = takes_turns and is_of_ingest(ingestor, "ingest_in_slices")
            slices: Any = getattr(ingestor, "ingest_in_slices", None) if has_slices else None
            result = ingestor.ingest(data, context) if slices is None else slices(data, context)
            records = await result if inspect.isawaitable(result) else result
            # What is lazy may go on with what the ingestor keeps; others may read between the records of a list.
            takes_turns |= inspect.isawaitable(result) or (in_turns and isinstance(records, (list, tuple)))
            events: list[Event] = []
            refused: list[Refusal] = []
            for _ in _sort(records, self._limits.batch_events, events, refused, pauses=slices is not None):
                if takes_turns:
                    await asyncio.sleep(0)
            return Reading(events, refused, records if isinstance(records, Reply) else None)
        except (InputError, RecordError) as error:
            raise InputError(error.code, said(error)) from error
        except PolkuError as error:
            text = f"ingestor for source={shorten(context.source)}: {said(error)}"
            raise InputError(Code.INGESTOR_ERROR, text) from error
        except BaseException as error:
            if is_ours(error):
                raise
            kind = reader if reader in self._by_source else ""  # any number of sources may share the default one
            source = shorten(context.source)
            _REPEATED.exception(("ingestor", kind), "the ingestor for source %s failed", source)
            raise InputError(Code.INGESTOR_ERROR, f"ingestor for source={source}: {named(error)}") from error
        finally:
            self._reading[id(ingestor)] -= 1
            if not self._reading[id(ingestor)]:
                del self._reading[id(ingestor)]
                self._read.set()

    def plugins(self) -> dict[str, PluginState]:
        """Return the state of each external ingestor, by the first source that it serves; `*` is the default one."""
        states: dict[str, PluginState] = {}
        seen: set[int] = set()
        default = {"*": self._default} if self._default is not None else {}
        for source, ingestor in (self._by_source | default).items():
            state = getattr(ingestor, "state", None)
            if callable(state) and id(ingestor) not in seen:
                seen.add(id(ingestor))
                states[source] = state()
        return states

    def _find(self, reader: str, source: str) -> Ingestor:
        ingestor = self._by_source.get(reader, self._default)
        if ingestor is not None:
            return ingestor
        source = shorten(source)
        if time.monotonic() < self._plugins_due:
            reason = f"source={source}: no plugin has registered for it yet; send again later"
            raise InputError(Code.UNAVAILABLE, reason)
        known = ", ".join(sorted(self._by_source)) or "none"
        reason = f"source={source}: no ingestor serves it and there is no default one; known are {known}"
        raise InputError(Code.UNKNOWN_SOURCE, reason)

    def _each_once(self) -> list[Ingestor]:
        default = [self._default] if self._default is not None else []
        return list({id(ingestor): ingestor for ingestor in [*self._by_source.values(), *default]}.values())


def _has_own(kind: type) -> bool:
    return "plain_reader" in vars(kind)


def _sort(
    records: Iterable[Event | RecordError | None],
    limit: int,
    events: list[Event],
    refused: list[Refusal],
    *,
    pauses: bool,
) -> Iterator[None]:
    """Put an ingestor's records into either list; yields after each `_TURN` of them, or `_TURN_SECONDS`.

    Where it `pauses`, None among the records asks for the same.

    Raises `InputError`, and what ingestors raise.
    """
    now = time.monotonic
    began = now()
    for number, record in enumerate(records, 1):
        if record is None and pauses:
            yield
            began = now()
            continue
        if isinstance(record, RecordError):
            refused.append(Refusal(as_id(record.event_id), record.code, said(record)))
        elif isinstance(record, Event):
            if events and events[-1] is record:  # it has changed meanwhile, and what it was before is lost
                raise TypeError(f"an ingestor gave the same Event again as record {number}; make a new one for each")
            events.append(record)
            if len(events) > limit:
                reason = f"data: more than {limit} events in one message; send fewer"
                raise InputError(Code.TOO_MANY_EVENTS, reason)
        else:
            raise TypeError(f"an ingestor must return Events and RecordErrors, not {type(record).__name__}")
        if not number % _TURN or now() - began > _TURN_SECONDS:
            yield
            began = now()
