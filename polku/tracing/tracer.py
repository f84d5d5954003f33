"""The spans of a pipeline's parts: what comes in, each stage, each attempt of an emitter."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.text import said
from polku.tracing.context import known, of_events
from polku.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext

Setup = Callable[[], Any]
"""Return the `TracerProvider` of a process; it is called once in each."""

_FLUSH_SECONDS = 2.0


class Tracing(NamedTuple):
    """How the spans of a pipeline's lane are made; it can be pickled where `setup` can."""

    setup: Setup
    pipeline: str
    lane: str = ""


class Tracer:
    """Make spans, and let batches carry their context on."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry import trace

        self._api = trace
        self._tracer = _provider(tracing.setup).get_tracer("polku", __version__)
        self._about = {"polku.pipeline": tracing.pipeline}
        if tracing.lane:
            self._about["polku.lane"] = tracing.lane

    def read(self, batch: Batch) -> None:
        """Note in a batch what traces its events say that they are part of."""
        batch.trace = of_events(batch.events, batch.trace)

    def intake(self, batch: Batch) -> Callable[[asyncio.Future[Receipt]], None]:
        """Begin the span of a batch that comes in, and return what ends it with its answer.

        It goes on with the trace of its events where that is one, and is linked to them where there are several.
        """
        contexts = self._contexts(batch.trace)
        parent = contexts[0] if len(contexts) == 1 else None
        links = [] if parent else contexts
        span = self._start("intake", "ingest", batch, parent, links, self._api.SpanKind.CONSUMER)
        batch.trace = self._traceparent(span)
        return functools.partial(_end_intake, span, self._api.StatusCode.ERROR)

    @contextlib.contextmanager
    def stage(self, name: str, batch: Batch) -> Iterator[StageSpan]:
        """Make the span of a stage's work on a batch, and give the batch that carries its context on."""
        span = self._follow(f"stage {name}", name, batch, self._api.SpanKind.INTERNAL)
        current = functools.partial(self._api.use_span, span, record_exception=False, set_status_on_exception=False)
        try:
            yield StageSpan(batch.traced(self._traceparent(span)), span, current)
        except BaseException as error:
            self._fail(span, error)
            raise
        finally:
            span.end()

    @contextlib.contextmanager
    def attempt(self, emitter: str, batch: Batch) -> Iterator[Attempt]:
        """Make the span of one call of an emitter, which is the current one for user code; give the batch for it."""
        span = self._follow(f"emit {emitter}", f"emitter:{emitter}", batch, self._api.SpanKind.PRODUCER)
        try:
            with self._api.use_span(span, record_exception=False, set_status_on_exception=False):
                yield Attempt(batch.traced(self._traceparent(span)), span, self._api.StatusCode.ERROR)
        except BaseException as error:
            self._fail(span, error)
            raise
        finally:
            span.end()

    def _follow(self, name: str, component: str, batch: Batch, kind: Any) -> Span:
        """Begin a span below the first recorded one that a batch comes from, and link it to the others."""
        contexts = self._contexts(batch.trace)
        parent = next((one for one in contexts if one.trace_flags.sampled), contexts[0] if contexts else None)
        return self._start(name, component, batch, parent, [one for one in contexts if one is not parent], kind)

    def _start(
        self, name: str, component: str, batch: Batch, parent: SpanContext | None, links: list[SpanContext], kind: Any
    ) -> Span:
        api = self._api
        context = api.set_span_in_context(api.NonRecordingSpan(parent or api.INVALID_SPAN_CONTEXT))
        linked: list[Link] = [api.Link(one) for one in links]
        about: Mapping[str, Any] = {**self._about, "polku.component": component, "polku.events": len(batch)}
        span: Span = self._tracer.start_span(name, context=context, kind=kind, links=linked, attributes=about)
        return span

    def _contexts(self, traces: str) -> list[SpanContext]:
        api = self._api
        found = []
        for text in known(traces) if traces else ():
            trace_id, span_id, flags = text.split("-")[1:4]
            found.append(api.SpanContext(int(trace_id, 16), int(span_id, 16), True, api.TraceFlags(int(flags, 16) & 1)))
        return found

    def _traceparent(self, span: Span) -> str:
        context = span.get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def _fail(self, span: Span, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            span.set_attribute("polku.cancelled", True)
            return
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._api.StatusCode.ERROR, said(error))


class StageSpan(NamedTuple):
    """The span of a stage's work; while `current` is entered, user code finds it as the current one."""

    batch: Batch
    span: Span
    current: Callable[[], contextlib.AbstractContextManager[Any]]

    def settle(self, forwarded: int, dead: int) -> None:
        """Note how many events went on, and how many the stage failed on."""
        self.span.set_attribute("polku.events.forwarded", forwarded)
        if dead:
            self.span.set_attribute("polku.events.dead", dead)


class Attempt(NamedTuple):
    """The span of one call of an emitter."""

    batch: Batch
    span: Span
    error: Any

    def settle(self, failures: int, why: str = "") -> None:
        """Note how many events failed, and why, where the call as a whole did."""
        if failures:
            self.span.set_attribute("polku.events.failed", failures)
        if why:
            self.span.set_status(self.error, why)


async def flush() -> None:
    """Hand out the spans that are waiting to be exported, within two seconds."""
    for provider in list(_PROVIDERS.values()):
        force = getattr(provider, "force_flush", None)
        if callable(force):
            with contextlib.suppress(Exception):
                await asyncio.to_thread(force, int(_FLUSH_SECONDS * 1_000))


_PROVIDERS: dict[Setup, Any] = {}


def _provider(setup: Setup) -> Any:
    """Return the provider of a setup: one for all parts of a process, and for pipelines that follow each other."""
    if setup not in _PROVIDERS:
        _PROVIDERS[setup] = setup()
    return _PROVIDERS[setup]


def _end_intake(span: Span, error: Any, answer: asyncio.Future[Receipt]) -> None:
    if answer.cancelled():
        span.set_attribute("polku.cancelled", True)
    elif (fault := answer.exception()) is not None:
        span.set_status(error, said(fault))
    elif refused := len(answer.result().refused):
        span.set_attribute("polku.events.refused", refused)
    span.end()
