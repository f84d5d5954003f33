"""`polku.testing.run`: the real path in virtual time, and a true account of every event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from polku import (
    Aggregator,
    Batch,
    BufferStrategy,
    Deduplicator,
    Event,
    Failure,
    Filter,
    Hub,
    MisconfiguredError,
    PlanError,
    RateLimiter,
    RejectedError,
    Resilience,
    Retry,
    Router,
    StdoutEmitter,
    Transform,
    WebhookEmitter,
    new_event,
)
from polku.clock import Clock, SystemClock
from polku.testing import Dropped, Flaky, Outcome, Pause, Raw, Refusing, Slow, VirtualClock, run, run_async
from tests.support.pace import check_cost


def classify(event: Event) -> None:
    if event.event_type == "broken":
        raise ValueError("not to be classified")
    event.metadata["class"] = "big" if len(event.payload) > 3 else "small"


def tickets() -> Hub:
    return (
        Hub()
        .middleware(Filter(lambda event: event.event_type != "noise"), name="no noise")
        .middleware(Transform(classify))
        .middleware(Router().type_prefix("order", to="audit").default("partner"))
        .emitter(StdoutEmitter(), name="audit")
        .emitter(WebhookEmitter("https://partner.example/hook"), name="partner")
    )


def kinds(*types: str) -> list[Event]:
    return [new_event(kind, id=str(number), payload=b"12345") for number, kind in enumerate(types)]


def dropped(outcome: Outcome) -> list[tuple[str, str, str]]:
    return [(event.id, middleware, reason) for event, middleware, reason in outcome.dropped]


def test_every_event_has_its_fate() -> None:
    outcome = run(tickets(), kinds("noise", "order", "broken", "other"))

    assert {name: [event.id for event in events] for name, events in outcome.delivered.items()} == {
        "audit": ["1"],
        "partner": ["3"],
    }
    assert outcome.delivered["audit"][0].metadata["class"] == "big"
    assert dropped(outcome) == [("0", "no noise", "filtered")]
    assert [(letter.event.id, letter.code) for letter in outcome.dead] == [("2", "MIDDLEWARE_ERROR")]
    assert [(one.event and one.event.id, one.code) for one in outcome.refused] == [("2", "MIDDLEWARE_ERROR")]
    assert outcome.fate("0") == "dropped by no noise (filtered)"
    assert outcome.fate("1") == "delivered to audit"
    assert "ValueError: not to be classified" in outcome.fate("2")
    assert outcome.fate("9") == "nothing is known of it"
    assert "audit: 1 event" in str(outcome)


def test_what_a_test_gives_is_not_changed() -> None:
    (event,) = kinds("order")
    before = event.SerializeToString()
    outcome = run(tickets(), event)
    assert event.SerializeToString() == before
    assert outcome.sent == [event]


def test_a_run_takes_a_moment() -> None:
    hub = tickets()
    run(hub, kinds("order"))
    check_cost(lambda: run(hub, kinds("order", "noise", "broken")), 0.05)


def test_time_is_virtual() -> None:
    clock = VirtualClock()
    hub = Hub().middleware(RateLimiter(1, burst=2)).middleware(Deduplicator(ttl=60)).emitter(StdoutEmitter())
    began = time.monotonic()
    events = kinds("a", "b", "c")
    outcome = run(hub, [*events, Pause(3600), *events], clock=clock)
    assert outcome.ids("stdout") == ["0", "1", "0", "1"]
    assert {entry[1:] for entry in dropped(outcome)} == {("RateLimiter", "rate_limited")}
    assert clock.seconds >= 3600
    assert outcome.seconds == pytest.approx(clock.seconds)
    assert time.monotonic() - began < 60


def test_a_clock_goes_on_from_one_run_to_the_next() -> None:
    clock = VirtualClock(0)
    clock.advance(5)
    seen: list[int] = []
    hub = Hub().emitter(lambda batch: seen.extend(event.timestamp_unix_ns for event in batch), name="seen")
    outcome = run(hub, Event(id="1", event_type="x"), clock=clock)
    assert outcome.delivered["seen"][0].timestamp_unix_ns == 5_000_000_000
    assert not seen, "the emitter of the hub is not called"
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    assert "1970-01-01T00:00:05" in repr(clock)


def test_a_duplicate_is_named() -> None:
    hub = Hub().middleware(Deduplicator(ttl=60)).emitter(StdoutEmitter())
    (event,) = kinds("a")
    assert dropped(run(hub, [event, event])) == [("0", "Deduplicator", "deduplicated")]
    (refused,) = run(hub, [[event, event]]).refused
    assert refused.code == "DUPLICATE_ID"


def test_an_aggregator_releases_what_it_holds() -> None:
    hub = Hub().middleware(Aggregator(size=2, within=60)).emitter(StdoutEmitter())
    outcome = run(hub, [*kinds("a", "a", "a"), Pause(61), *kinds("a")])
    assert len(outcome.delivered["stdout"]) == 3
    assert not outcome.dropped


def test_a_flaky_destination_is_tried_again_as_the_emitter_would_be() -> None:
    outcome = run(tickets(), kinds("order", "other"), replace={"partner": Flaky(fail=3)})
    assert outcome.ids("partner") == ["1"]
    assert not outcome.dead
    assert outcome.seconds > 0.05

    hub = Hub().emitter(Resilience(StdoutEmitter(), retry=Retry(attempts=2)), name="audit")
    given_up = run(hub, kinds("order"), replace={"audit": Flaky(fail=3)})
    assert [(letter.emitter, letter.attempts) for letter in given_up.dead] == [("audit", 2)]


@pytest.mark.parametrize("error", [RejectedError("never"), MisconfiguredError("wrong password")])
def test_a_destination_can_fail_in_its_own_way(error: Exception) -> None:
    outcome = run(tickets(), kinds("other"), replace={"partner": Flaky(error=error)})
    if isinstance(error, RejectedError):
        assert [letter.reason for letter in outcome.dead] == ["never"]
    else:
        assert outcome.ids("partner") == ["0"]


def test_a_destination_can_refuse_and_take_its_time() -> None:
    refusing = Refusing(lambda event: event.id == "1", "too odd")
    outcome = run(tickets(), kinds("other", "other"), replace={"partner": refusing})
    assert (outcome.ids("partner"), [letter.reason for letter in outcome.dead]) == (["0"], ["too odd"])
    assert run(tickets(), kinds("other"), replace={"partner": Slow(20)}).seconds >= 20


def test_what_is_not_delivered_in_time_is_held() -> None:
    outcome = run(tickets(), kinds("other", "order"), replace={"partner": Flaky(fail=10**9)})
    assert [event.id for event in outcome.held["partner"]] == ["0"]
    assert outcome.ids("audit") == ["1"]
    assert outcome.fate("0") == "not delivered to partner in time"
    assert "not delivered to partner: 0" in str(outcome)


@pytest.mark.parametrize(("rule", "left"), [("drop_oldest", "last"), ("drop_newest", "first")])
def test_what_a_full_buffer_drops_is_named(rule: str, left: str) -> None:
    hub = Hub().buffer_strategy(BufferStrategy.ring(4, overflow=rule)).emitter(StdoutEmitter())
    events = kinds(*"abcdefghijkl")
    outcome = run(hub, events, replace={"stdout": Flaky(fail=4)})
    got, lost = outcome.ids("stdout"), [entry[0] for entry in dropped(outcome)]
    assert sorted([*got, *lost], key=int) == [event.id for event in events]
    assert {entry[1:] for entry in dropped(outcome)} == {("stdout", "overflowed")}
    assert (got[-1] == "11") == (left == "last")


def test_a_durable_buffer_needs_no_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "nowhere" / "journal.db"
    hub = Hub().buffer_strategy(BufferStrategy.durable(path)).ack("durable").emitter(StdoutEmitter())
    assert run(hub, kinds("a")).ids("stdout") == ["0"]
    assert not path.parent.exists()


def test_a_durable_deduplicator_writes_no_file_and_knows_nothing_of_the_last_test(tmp_path: Path) -> None:
    buffer = BufferStrategy.durable(tmp_path / "journal.db")
    hub = Hub().buffer_strategy(buffer).middleware(Deduplicator(durable=True)).emitter(StdoutEmitter())
    for _ in range(2):
        assert run(hub, [*kinds("a"), *kinds("a")]).ids("stdout") == ["0"]
    assert list(tmp_path.iterdir()) == []


def test_raw_bytes_go_to_their_ingestor() -> None:
    outcome = run(tickets(), Raw(b'{"id":"7","event_type":"order"}\nnonsense\n', source="ndjson"))
    assert outcome.ids("audit") == ["7"]
    (refused,) = outcome.refused
    assert (refused.event, refused.code) == (None, "INVALID_RECORD")


def test_any_part_can_be_replaced() -> None:
    def tag(event: Event) -> None:
        event.metadata["class"] = "fake"

    def parse(data: bytes) -> Iterable[Event]:
        yield new_event("order", id=data.decode())

    outcome = run(tickets(), Raw(b"8", source="ndjson"), replace={"classify": tag, "ndjson": parse})
    assert [(event.id, event.metadata["class"]) for event in outcome.delivered["audit"]] == [("8", "fake")]


def test_an_emitter_of_yours_can_be_run_too() -> None:
    class Picky:
        may_recover = False

        def __init__(self) -> None:
            self.seen: list[str] = []
            self.is_open = False

        def start(self) -> None:
            self.is_open = True

        def emit(self, batch: Batch) -> Sequence[Failure]:
            self.seen += batch.ids
            return [Failure(one, "odd", retryable=False) for one in batch.ids if int(one) % 2]

    picky = Picky()
    outcome = run(tickets(), kinds("order", "order"), replace={"audit": picky})
    assert (picky.seen, picky.is_open, outcome.ids("audit")) == (["0", "1"], True, ["0"])


def test_one_middleware_can_be_run_alone() -> None:
    outcome = run(tickets(), kinds("noise", "order"), only="classify")
    assert [event.metadata["class"] for event in outcome.events] == ["big", "big"]
    assert outcome.ids("audit") == outcome.ids("partner") == ["0", "1"]
    assert run(tickets(), kinds("noise"), only=["no noise", "classify"]).events == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": "clasify"}, "'clasify' is no middleware; known are no noise, Transform(classify), Router"),
        ({"replace": {"partnr": Flaky()}}, "'partnr' is no part of the pipeline; known are emitters audit, partner"),
        ({"replace": {"partner": 3}}, "is no emitter"),
        ({"replace": {"classify": 3}}, "is no middleware"),
    ],
)
def test_a_wrong_name_is_an_error_that_lists_the_right_ones(options: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError) as caught:
        run(tickets(), kinds("order"), **options)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_names_that_two_parts_have_are_an_error() -> None:
    hub = Hub().middleware(Transform(classify), name="audit").emitter(StdoutEmitter(), name="audit")
    with pytest.raises(PlanError, match="'audit' is an emitter and middleware"):
        run(hub, kinds("a"), replace={"audit": Flaky()})
    twice = Hub().middleware(Transform(classify)).middleware(Transform(classify)).emitter(StdoutEmitter())
    with pytest.raises(PlanError, match="'classify' is 2 middleware"):
        run(twice, kinds("a"), only="classify")


def test_what_is_no_event_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"3 \(int\) is nothing that a pipeline is given; write an Event"):
        run(tickets(), [3])  # type: ignore[list-item]


def test_a_part_that_cannot_start_is_an_error() -> None:
    class Model:
        def start(self) -> None:
            raise FileNotFoundError("model.bin")

        def process(self, events: list[Event]) -> list[Event]:
            return events

    with pytest.raises(FileNotFoundError, match=r"model\.bin") as caught:
        run(tickets(), kinds("order"), replace={"classify": Model()})
    assert "raised by start() of middleware" in caught.value.__notes__[0]


def test_a_run_that_waits_for_nothing_ends() -> None:
    async def forever(event: Event) -> None:
        await asyncio.Event().wait()

    hub = Hub().middleware(Transform(forever, timeout=1e12), name="waits").emitter(StdoutEmitter())
    with pytest.raises(TimeoutError, match=r"it was not done after 0\.3 s: .*middleware waits is busy, 1 message has"):
        run(hub, kinds("a"), timeout=0.3, within=1e11)


def test_async_code_that_hangs_costs_no_real_time() -> None:
    async def slow(event: Event) -> None:
        await asyncio.sleep(1000)

    outcome = run(Hub().middleware(Transform(slow, timeout=30)).emitter(StdoutEmitter()), kinds("a"))
    assert [letter.code for letter in outcome.dead] == ["MIDDLEWARE_TIMEOUT"]


def test_threads_take_the_time_that_they_take() -> None:
    async def look_up(event: Event) -> None:
        event.metadata["found"] = await asyncio.to_thread(_slowly)

    outcome = run(Hub().middleware(Transform(look_up, timeout=30)).emitter(StdoutEmitter()), kinds("a"))
    assert outcome.events[0].metadata["found"] == "yes"
    assert 0.01 < outcome.seconds < 30


def _slowly() -> str:
    time.sleep(0.03)
    return "yes"


async def test_sockets_take_the_time_that_they_take() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.03)
        writer.write(b"yes")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask(event: Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        event.metadata["found"] = (await reader.read()).decode()
        writer.close()

    async with server:
        outcome = await run_async(Hub().middleware(Transform(ask, timeout=5)).emitter(StdoutEmitter()), kinds("a"))
    assert outcome.events[0].metadata["found"] == "yes"


async def test_it_works_inside_a_running_loop() -> None:
    assert run(tickets(), kinds("order")).ids("audit") == ["0"]
    first, second = await asyncio.gather(run_async(tickets(), kinds("order")), run_async(tickets(), kinds("noise")))
    assert (first.ids("audit"), second.events) == (["0"], [])
    with pytest.raises(PlanError):
        await run_async(tickets(), kinds("order"), only="nothing")


def test_another_clock_is_real_time() -> None:
    outcome = run(tickets(), [*kinds("other"), Pause(0.01)], clock=SystemClock())
    assert outcome.ids("partner") == ["0"]
    with pytest.raises(TimeoutError):
        run(tickets(), [Pause(5)], clock=SystemClock(), timeout=0.01)


def test_components_get_the_clock() -> None:
    class Stamp:
        def build(self, clock: Clock) -> object:
            def stamp(event: Event) -> None:
                event.metadata["at"] = str(clock.time_ns())

            return stamp

    clock = VirtualClock()
    outcome = run(Hub().middleware(Stamp()).emitter(StdoutEmitter()), kinds("a"), clock=clock)
    assert outcome.events[0].metadata["at"] == "1767225600000000000"


def test_ids_of_an_emitter_that_there_is_not() -> None:
    with pytest.raises(KeyError, match="no emitter 'adit'; known are 'audit', 'partner'"):
        run(tickets(), []).ids("adit")


def test_a_dropped_event_reads_as_a_tuple() -> None:
    (one,) = run(tickets(), kinds("noise")).dropped
    assert one == Dropped(one.event, "no noise", "filtered")
