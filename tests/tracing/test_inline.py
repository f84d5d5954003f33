"""The spans of a pipeline, as the SDK's in-memory exporter sees them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from polku import (
    Aggregator,
    Batch,
    Breaker,
    BufferStrategy,
    Event,
    Failure,
    Filter,
    Hub,
    Resilience,
    Retry,
    RetryableError,
    Transform,
    new_event,
)
from polku.batch.batch import MOST_TRACES
from polku.tracing.export import otlp, still_traced
from tests.tracing.spans import PARENT, TRACE, InMemory, id_of, linked, parent_of


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def order(trace: str = PARENT, **metadata: str) -> Event:
    return new_event("order", source="shop", metadata={"traceparent": trace, **metadata})


class Partner:
    """A destination that is away as often as it is told, and refuses poison."""

    name = "partner"

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.traces: list[str] = []
        self.current: list[int] = []

    def emit(self, batch: Batch) -> list[Failure]:
        self.traces.append(batch.trace)
        self.current.append(trace.get_current_span().get_span_context().span_id)
        if self.away:
            self.away -= 1
            raise RetryableError("away")
        return [Failure(event.id, "no", retryable=False) for event in batch if event.event_type == "poison"]


def test_a_batch_has_a_span_for_each_part_below_the_trace_of_its_event() -> None:
    spans, partner = InMemory(), Partner()
    hub = Hub(runtime="inline", name="shop").traces(spans).middleware(Filter(lambda event: event.event_type != "noise"))
    with hub.emitter(partner).start() as pipeline:
        pipeline.sender().send([order(), new_event("noise", source="shop"), new_event("poison", source="shop")])
        wait_for(lambda: len(spans.named("")) == 3)
    (intake,), (stage,), (emit,) = spans.named("intake"), spans.named("stage stage-1"), spans.named("emit partner")
    assert {span.context.trace_id for span in (intake, stage, emit) if span.context} == {int(TRACE, 16)}
    assert (parent_of(intake), parent_of(stage), parent_of(emit)) == (0xB7AD6B7169203331, id_of(intake), id_of(stage))
    assert [span.kind for span in (intake, stage, emit)] == [SpanKind.CONSUMER, SpanKind.INTERNAL, SpanKind.PRODUCER]
    about = {"polku.pipeline": "shop", "polku.component": "ingest", "polku.events": 3}
    assert dict(intake.attributes or {}) == about
    assert stage.attributes is not None
    assert stage.attributes["polku.events.forwarded"] == 2
    assert emit.attributes is not None
    assert (emit.attributes["polku.component"], emit.attributes["polku.events.failed"]) == ("emitter:partner", 1)
    assert partner.traces == [f"00-{TRACE}-{id_of(emit):016x}-01"]
    assert partner.current == [id_of(emit)]


def test_a_batch_of_several_traces_is_linked_to_a_bounded_number_of_them() -> None:
    spans = InMemory()
    with Hub(runtime="inline").traces(spans).emitter(Partner()).start() as pipeline:
        odd = ["", "00-junk", f"ff-{TRACE}-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01"]
        events = [order(text) for text in odd]
        events += [order(f"00-{number % 99 + 1:032x}-b7ad6b7169203331-01") for number in range(500)]
        pipeline.sender().send(events)
        wait_for(lambda: len(spans.named("emit")) == 1)
    (intake,) = spans.named("intake")
    assert intake.parent is None
    assert [link.context.trace_id for link in intake.links] == list(range(1, MOST_TRACES + 1))


def test_each_attempt_is_a_span_below_the_same_one() -> None:
    spans, partner = InMemory(), Partner(away=2)
    emitter = Resilience(partner, retry=Retry(first=0.01, limit=0.01))
    with Hub(runtime="inline").traces(spans).emitter(emitter).start() as pipeline:
        pipeline.sender().send(order())
        wait_for(lambda: len(spans.named("emit")) == 3)
    (intake,) = spans.named("intake")
    attempts = spans.named("emit")
    assert [parent_of(span) for span in attempts] == [id_of(intake)] * 3
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert attempts[0].status.description == "away"
    assert [int(text.split("-")[2], 16) for text in partner.traces] == [id_of(span) for span in attempts]


def test_batches_that_are_delivered_together_are_all_linked() -> None:
    spans, partner = InMemory(), Partner(away=1_000_000)
    emitter = Resilience(partner, retry=Retry(first=0.01, limit=0.01), breaker=Breaker(open_for=0.1))
    with Hub(runtime="inline").traces(spans).emitter(emitter).start() as pipeline:
        sender = pipeline.sender()
        sender.send(order())
        wait_for(lambda: len(spans.named("emit")) > 0)
        for number in range(20):
            sender.send(order(f"00-{number + 1:032x}-b7ad6b7169203331-01"))
        partner.away = 0
    sent = [id_of(span) for span in spans.named("intake")]
    taken = [span for span in spans.named("emit") if span.status.status_code is StatusCode.UNSET]
    assert {number for span in taken for number in (parent_of(span), *linked(span))} == set(sent)
    assert any(len(linked(span)) > 1 for span in taken)


def test_what_an_aggregate_was_made_of_is_linked() -> None:
    spans = InMemory()
    hub = Hub(runtime="inline").traces(spans).middleware(Aggregator(2, within=30)).emitter(Partner())
    with hub.start() as pipeline:
        events = [order(f"00-{number:032x}-b7ad6b7169203331-01") for number in (1, 2)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(pipeline.sender().send, events))
        wait_for(lambda: len(spans.named("emit")) == 1)
    (emit,) = spans.named("emit")
    stages = [id_of(span) for span in spans.named("stage")]
    assert [parent_of(emit), *linked(emit)] == stages


def test_a_trace_goes_on_through_a_journal_after_a_restart(tmp_path: Path) -> None:
    spans = InMemory()
    strategy = BufferStrategy.durable(str(tmp_path / "journal.db"))
    away = Resilience(Partner(away=1000), retry=Retry(first=0.01, limit=0.02))
    with Hub(runtime="inline").buffer_strategy(strategy).traces(spans).emitter(away).start() as pipeline:
        pipeline.sender().send(order())
        pipeline.stop(timeout=0.0)
    later = InMemory()
    with Hub(runtime="inline").buffer_strategy(strategy).traces(later).emitter(Partner()).start():
        wait_for(lambda: len(later.named("emit")) == 1)
    (intake,), (emit,) = spans.named("intake"), later.named("emit")
    assert parent_of(emit) == id_of(intake)
    assert emit.context is not None
    assert emit.context.trace_id == int(TRACE, 16)


def test_spans_of_user_code_stand_below_those_of_its_part() -> None:
    spans = InMemory()
    seen: list[int] = []

    def mark(event: Event) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    async def mark_later(event: Event) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    hub = Hub(runtime="inline").traces(spans).middleware(Transform(mark)).middleware(Transform(mark_later))
    with hub.emitter(Partner()).start() as pipeline:
        pipeline.sender().send(order())
    (stage,) = spans.named("stage")
    assert seen == [id_of(stage)] * 2


def test_a_fault_is_in_the_span(tmp_path: Path) -> None:
    spans = InMemory()

    def crash(event: Event) -> Event:
        raise ValueError("odd")

    with Hub(runtime="inline").traces(spans).middleware(Transform(crash)).emitter(Partner()).start() as pipeline:
        assert pipeline.sender().send(order()).refused
    (intake,), (stage,) = spans.named("intake"), spans.named("stage")
    assert stage.attributes is not None
    assert (stage.attributes["polku.events.forwarded"], stage.attributes["polku.events.dead"]) == (0, 1)
    assert intake.attributes is not None
    assert intake.attributes["polku.events.refused"] == 1


def test_a_pipeline_that_is_not_traced_imports_nothing_of_it() -> None:
    code = (
        "import sys; from polku import Filter, Hub, StdoutEmitter, new_event\n"
        "with Hub(runtime='inline').middleware(Filter(bool)).emitter(StdoutEmitter()).start() as pipeline:\n"
        "    pipeline.sender().send(new_event('order', source='shop', metadata={'traceparent': 'x'}))\n"
        "sys.exit(sum(name.startswith(('opentelemetry', 'polku.tracing.tracer')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=240).returncode == 0


def test_a_setup_must_be_a_function() -> None:
    with pytest.raises(Exception, match="must be a function that returns a TracerProvider"):
        Hub().traces("otlp")  # type: ignore[arg-type]


def test_a_pipeline_that_is_changed_stays_traced_as_its_environment_says() -> None:
    plan = Hub(runtime="inline").emitter(Partner()).plan()
    assert still_traced(plan, replace(plan, traces=otlp)).traces is otlp
    spans = InMemory()
    own = replace(plan, traces=spans)
    assert still_traced(own, replace(plan, traces=otlp)).traces is spans
    assert still_traced(plan, own).traces is None  # what the file says is up to the file
