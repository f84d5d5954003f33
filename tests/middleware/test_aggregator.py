import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from polku.contracts import Flush, Holder, IngestContext
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.ingest import JsonIngestor
from polku.middleware import Aggregator
from tests.middleware.harness import events
from tests.support.clock import FakeClock
from tests.support.examples import examples


def build(clock: FakeClock | None = None, size: int = 3, within: float = 10.0, **options: Any) -> Holder:
    return Aggregator(size, within, **options).build(clock or FakeClock())


def parts(flush: Flush) -> list[tuple[int, int]]:
    return [(part.batch, part.position) for part in flush.parts]


def test_a_full_group_is_let_go_at_once_and_names_its_parts() -> None:
    holder = build()
    assert holder.hold(events("a", "b"), 1) == []
    (flush,) = holder.hold(events("c", "d"), 2)
    assert parts(flush) == [(1, 0), (1, 1), (2, 0)]
    assert len(flush.events) == 1
    assert holder.held[0] == 1


def test_a_group_is_due_a_fixed_time_after_its_first_event() -> None:
    clock = FakeClock()
    holder = build(clock)
    assert holder.due() is None
    holder.hold(events("a"), 1)
    clock.advance(6)
    holder.hold(events("b"), 2)
    holder.hold(events("c", source="other"), 3)
    assert holder.due() == 10
    assert holder.flush() == []
    clock.advance(4)
    (flush,) = holder.flush()
    assert parts(flush) == [(1, 0), (2, 0)]
    assert holder.due() == 16


def test_a_drain_lets_everything_go() -> None:
    holder = build()
    holder.hold([*events("a"), *events("b", source="other")], 1)
    assert [parts(flush) for flush in holder.flush(everything=True)] == [[(1, 0)], [(1, 1)]]
    assert (holder.held, holder.due()) == ((0, 0), None)


def test_groups_are_by_source_and_type_or_by_key_and_never_mix_routes() -> None:
    batch = [*events("a"), *events("b", source="s2"), *events("c", event_type="t2"), *events("d")]
    batch[3].route_to.append("elsewhere")
    holder = build()
    holder.hold(batch, 1)
    assert len(holder.flush(everything=True)) == 4
    by_key = build(size=5, key=lambda event: 1)
    by_key.hold(batch, 1)
    flushes = by_key.flush(everything=True)
    assert [(len(flush.parts), list(flush.events[0].route_to)) for flush in flushes] == [(3, []), (1, ["elsewhere"])]


def test_the_aggregate_says_what_its_events_have_in_common() -> None:
    batch = events("a", "b")
    batch[0].timestamp_unix_ns, batch[1].timestamp_unix_ns = 200, 100
    batch[0].severity, batch[1].severity = Severity.SEVERITY_INFO, Severity.SEVERITY_ERROR
    for event in batch:
        event.outcome = Outcome.OUTCOME_FAILURE
        event.metadata["cluster"] = "prod"
        event.metadata["own"] = event.id
    ((out,), _) = build(size=2).hold(batch, 1)[0]
    assert len(out.id) == 26
    assert (out.source, out.event_type, out.timestamp_unix_ns) == ("agent", "user.login", 200)
    assert (out.severity, out.outcome) == (Severity.SEVERITY_ERROR, Outcome.OUTCOME_FAILURE)
    assert dict(out.metadata) == {
        "cluster": "prod",
        "polku.aggregate.count": "2",
        "polku.aggregate.first_unix_ns": "100",
        "polku.aggregate.last_unix_ns": "200",
        "polku.aggregate.strategy": "json_array",
    }


def test_a_json_array_holds_json_payloads_as_they_are_and_other_events_whole() -> None:
    batch = events("a", "b", "c", "d")
    batch[0].payload = b'{"n": 1}'
    batch[1].payload = b"\xff\x00"
    batch[2].network.src_port = 80
    batch[3].payload, batch[3].k8s.reason = b"{}", "both"
    ((out,), _) = build(size=4).hold(batch, 1)[0]
    array = json.loads(out.payload)
    assert array[0] == {"n": 1}
    whole = json.dumps(array[1:]).encode()
    assert list(JsonIngestor().ingest(whole, IngestContext("json"))) == batch[1:]


def test_concat_first_and_last() -> None:
    for strategy, payload in (("concat", b"123"), ("first", b"1"), ("last", b"3")):
        batch = events("a", "b", "c")
        for number, event in enumerate(batch, 1):
            event.payload = b"%d" % number
            event.network.src_port = number
        ((out,), _) = build(strategy=strategy).hold(batch, 1)[0]
        assert out.payload == payload
        assert out.network.src_port == {"concat": 0, "first": 1, "last": 3}[strategy]
        assert out.id not in ("a", "b", "c")
        assert [event.id for event in batch] == ["a", "b", "c"]


@pytest.mark.parametrize("key", [lambda event: 1 // 0, lambda event: []])
def test_an_event_whose_key_fails_goes_on_alone_and_says_why(key: Callable[[Event], Any]) -> None:
    (flush,) = build(key=key).hold(events("a"), 1)
    assert parts(flush) == [(1, 0)]
    assert flush.events[0].id == "a"
    assert "Error" in flush.events[0].metadata["polku.aggregate.error"]


@examples(50)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 4), st.booleans()), max_size=40), st.integers(1, 5))
def test_every_event_is_in_exactly_one_flush_and_the_counters_agree(
    steps: list[tuple[int, float, bool]], size: int
) -> None:
    clock = FakeClock()
    holder = build(clock, size)
    given_parts, seen = [], []
    for number, (source, wait, flush) in enumerate(steps):
        clock.advance(wait)
        batch = events(f"e{number}", source=str(source))
        given_parts.append((number, 0))
        flushes = list(holder.hold(batch, number)) + (list(holder.flush()) if flush else [])
        seen += [part for one in flushes for part in parts(one)]
        assert holder.held[0] == len(given_parts) - len(seen)
        assert holder.held[1] >= 0
    seen += [part for one in holder.flush(everything=True) for part in parts(one)]
    assert sorted(seen) == given_parts
    assert holder.held == (0, 0)


async def _later(event: Event) -> str:
    return event.id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: Aggregator(0, 1.0), "Aggregator(size=0): must be a whole number"),
        (lambda: Aggregator(1, 0), "Aggregator(within=0): must be a number above 0"),
        (lambda: Aggregator(1, 1, strategy="sum"), "choose 'json_array', 'concat', 'first' or 'last'"),
        (lambda: Aggregator(1, 1, key=_later), "must not be async"),  # type: ignore[arg-type]
        (lambda: Aggregator(1, 1, max_held=0), "Aggregator(max_held=0)"),
    ],
)
def test_wrong_arguments_are_named_with_value_and_fix(arguments: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        arguments()
    assert message in str(caught.value)


def test_its_limits_are_what_it_was_given() -> None:
    assert build(max_held=5, max_bytes=6).limit == (5, 6)


def made(given: list[Event], **options: Any) -> Event:
    (flush,) = Aggregator(len(given), 60.0, **options).build(FakeClock()).hold(given, 1)
    (out,) = flush.events
    return out


def at(*pairs: tuple[str, str], time_ns: int = 1_700_000_000_123_456_789) -> list[Event]:
    return [Event(id=i, source=s, event_type="t", timestamp_unix_ns=time_ns + n) for n, (s, i) in enumerate(pairs)]


def test_what_is_made_again_of_the_same_parts_has_the_same_id() -> None:
    parts = (("s", "a"), ("s", "b"))
    assert made(at(*parts)).id == made(at(*parts)).id


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ((("s", "b"), ("s", "a")), {}),  # another order
        ((("s", "a"), ("s", "c")), {}),
        ((("s", "a"), ("s", "b"), ("s", "c")), {}),
        ((("s", "ab"), ("s", "")), {}),
        ((("r", "a"), ("r", "b")), {}),
        ((("s", "a"), ("s", "b")), {"strategy": "concat"}),
    ],
)
def test_what_is_made_of_other_parts_or_otherwise_has_another_id(
    parts: tuple[tuple[str, str], ...], options: dict[str, str]
) -> None:
    assert made(at(*parts), **options).id != made(at(("s", "a"), ("s", "b"))).id


@pytest.mark.parametrize("time_ns", [-5, 0, 1_700_000_000_123_456_789, 2**63 - 1])
def test_its_id_is_a_ulid_with_the_time_of_the_first_part(time_ns: int) -> None:
    (part,) = at(("s", "a"), time_ns=time_ns)
    got = ULID.from_str(made([part]).id)
    assert got.milliseconds == max(0, min(time_ns // 1_000_000, 2**48 - 1))


def impossible(event_id: str) -> Event:
    event = Event(id=event_id, source="s", event_type="t")
    event.process.start_time.seconds = 1_700_000_000_000
    return event


def test_an_event_that_cannot_be_written_goes_alone_and_the_others_of_its_group_together() -> None:
    step = Aggregator(4, 60.0).build(FakeClock())
    a, b = at(("s", "a"), ("s", "b"))
    flushes = step.hold([a, impossible("bad"), b, impossible("worse")], 1)
    assert [[event.id for event in flush.events] for flush in flushes[:2]] == [["bad"], ["worse"]]
    assert "Timestamp" in flushes[0].events[0].metadata["polku.aggregate.error"]
    assert flushes[2].events[0].metadata["polku.aggregate.count"] == "2"
    assert [part.position for flush in flushes for part in flush.parts] == [1, 3, 0, 2]
    assert step.held == (0, 0)


def test_so_it_does_when_it_is_due_and_at_a_drain() -> None:
    clock = FakeClock()
    step = Aggregator(4, 60.0).build(clock)
    assert step.hold([impossible("bad")], 1) == []
    clock.advance(60.0)
    (flush,) = step.flush()
    assert flush.events[0].id == "bad"
    step.hold([impossible("bad")], 2)
    (flush,) = step.flush(everything=True)
    assert flush.events[0].id == "bad"
    assert step.due() is None


class Changing:
    """A key whose hash is another one each time, and which may equal all others later."""

    hashes = itertools.count()
    alike = False

    def __init__(self, event: Event) -> None:
        self.id = event.id

    def __hash__(self) -> int:
        return 1 if Changing.alike else next(Changing.hashes)

    def __eq__(self, other: object) -> bool:
        return Changing.alike or (isinstance(other, Changing) and other.id == self.id)


class Refusing(Changing):
    """One that has a hash twice: when it is looked up and when it is put in."""

    def __init__(self, event: Event) -> None:
        self.left = 2

    def __hash__(self) -> int:
        self.left -= 1
        if self.left < 0:
            raise ValueError("no hash any more")
        return id(self)


@pytest.mark.parametrize("key", [Changing, Refusing])
@pytest.mark.parametrize("size", [1, 2, 10])
def test_keys_without_a_lasting_hash_lose_no_event_and_say_so(
    key: type[Changing], size: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    holder = build(clock, size, key=key)
    flushes = list(holder.hold(events("a", "b", "c"), 1))
    clock.advance(5)
    flushes += holder.hold(events("d", "e"), 2)
    clock.advance(5)
    flushes += holder.flush()
    clock.advance(5)
    flushes += holder.flush()
    given = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    assert [place for flush in flushes for place in parts(flush)] == given
    assert (holder.held, holder.due()) == ((0, 0), None)
    assert "a group cannot be found by its key" in caplog.text


def test_groups_whose_keys_have_become_alike_stay_when_they_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    holder: Any = build(size=10, key=Changing)
    holder.hold(events("a", "b"), 1)
    monkeypatch.setattr(Changing, "alike", True)
    holder.restore({"groups": []})
    assert [parts(flush) for flush in holder.flush(everything=True)] == [[(1, 0)], [(1, 1)]]
    assert (holder.held, holder.due()) == ((0, 0), None)


async def test_of_thousands_of_groups_that_are_due_some_go_at_a_time_and_the_rest_is_due_at_once() -> None:
    clock = FakeClock()
    holder = Aggregator(10, 1.0, key=lambda event: event.id).build(clock)
    holder.hold([Event(id=f"{number}", event_type="t") for number in range(1_000)], 1)
    clock.advance(1.0)
    sizes = []
    while (due := holder.due()) is not None:
        assert due <= clock.monotonic()
        sizes.append(len(holder.flush()))
    assert (sum(sizes), max(sizes)) == (1_000, 256)
    holder.hold([Event(id=f"{number}", event_type="t") for number in range(1_000)], 2)
    assert len(holder.flush(everything=True)) == 1_000
