"""RateLimiter, Throttle and Sampler: what passes, what does not, and how it is counted."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.contracts import Outcome
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware import RateLimiter, Sampler, Throttle
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock
from tests.support.examples import examples


async def test_a_burst_passes_and_then_only_the_rate() -> None:
    clock = FakeClock()
    step = as_step(RateLimiter(10, burst=3), clock)
    assert ids(await work(step, events(*"abcde"))) == ["a", "b", "c"]
    assert ids(await work(step, events("f"))) == []
    for _ in range(10):
        clock.advance(0.1)
        assert len(ids(await work(step, events("g", "h")))) == 1
    assert step.drop_reason == "rate_limited"


async def test_an_idle_limiter_saves_no_more_than_its_burst() -> None:
    clock = FakeClock()
    step = as_step(RateLimiter(5), clock)
    clock.advance(1_000)
    assert len(ids(await work(step, events(*"abcdefgh")))) == 5


async def test_a_rate_below_one_still_lets_single_events_pass() -> None:
    clock = FakeClock()
    step = as_step(RateLimiter(0.1), clock)
    assert len(ids(await work(step, events("a", "b")))) == 1
    clock.advance(10)
    assert len(ids(await work(step, events("c")))) == 1


async def test_a_batch_within_the_rate_comes_back_as_the_same_list() -> None:
    batch = events("a", "b")
    for component in (RateLimiter(10), Throttle(10), Sampler(1.0)):
        assert (await work(as_step(component, FakeClock()), batch)).events is batch


@examples(50)
@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 5)), max_size=30), st.floats(0.5, 50), st.floats(1, 30))
def test_no_interval_ever_sees_more_than_burst_plus_rate_times_time(
    steps: list[tuple[int, float]], rate: float, burst: float
) -> None:
    clock = FakeClock()
    step = RateLimiter(rate, burst=burst).build(clock)
    passed = 0
    for count, wait in steps:
        clock.advance(wait)
        outcome = step.process([Event()] * count, 1)
        assert isinstance(outcome, Outcome)
        passed += len(outcome.events)
    assert passed <= burst + rate * clock.monotonic() + 1e-6


async def test_each_source_has_its_own_bucket() -> None:
    step = as_step(Throttle(1, burst=2), FakeClock())
    mixed = [*events("a1", "a2", "a3", source="a"), *events("b1", source="b")]
    assert ids(await work(step, mixed)) == ["a1", "a2", "b1"]
    assert ids(await work(step, events("b2", "b3", source="b"))) == ["b2"]
    assert step.drop_reason == "rate_limited"


async def test_the_least_recently_used_source_is_forgotten_first() -> None:
    step = as_step(Throttle(1, burst=1, max_sources=2), FakeClock())
    for source in ("a", "b", "a", "c"):  # b is the one to go
        await work(step, events("1", source=source))
    assert ids(await work(step, events("2", source="a"))) == []
    assert ids(await work(step, events("2", source="b"))) == ["2"]


async def test_about_the_rate_is_kept_and_the_seed_repeats_the_choice() -> None:
    batch = events(*map(str, range(5_000)))
    first = ids(await run(Sampler(0.2, seed=7), batch))
    assert 800 < len(first) < 1200
    assert ids(await run(Sampler(0.2, seed=7), batch)) == first
    assert ids(await run(Sampler(0.2, seed=8), batch)) != first
    assert as_step(Sampler(0.2), FakeClock()).drop_reason == "sampled_out"


async def test_none_and_all_are_exact() -> None:
    batch = events("a", "b")
    for key in (None, "id"):
        assert ids(await run(Sampler(0, key=key), batch)) == []
        assert ids(await run(Sampler(1, key=key), batch)) == ["a", "b"]


async def test_the_choice_is_one_for_each_key() -> None:
    batch = [event for source in map(str, range(200)) for event in events("x", "y", "z", source=source)]
    kept = (await run(Sampler(0.5, key="source"), batch)).events
    sources = [event.source for event in kept]
    assert 60 < len(set(sources)) < 140
    assert all(sources.count(source) == 3 for source in sources)


async def test_the_choice_for_a_key_is_the_same_in_every_process_and_version() -> None:
    kept = ids(await run(Sampler(0.3, key="id", seed=1), events(*(f"evt-{n:03}" for n in range(20)))))
    assert kept == ["evt-003", "evt-005", "evt-007", "evt-012", "evt-014", "evt-016"]


@pytest.mark.parametrize("rate", [0.1, 0.5])
async def test_choices_of_different_seeds_are_independent_also_for_ids_in_sequence(rate: float) -> None:
    batch = events(*(f"evt-{number:05}" for number in range(4_000)))
    chosen = [set(ids(await run(Sampler(rate, key="id", seed=seed), batch))) for seed in range(6)]
    for number, one in enumerate(chosen):
        assert 0.85 * rate < len(one) / 4_000 < 1.15 * rate
        for other in chosen[:number]:
            assert 0.6 * rate**2 < len(one & other) / 4_000 < 1.4 * rate**2


async def test_metadata_and_functions_are_keys_and_events_without_that_metadata_go_by_id() -> None:
    batch = events(*map(str, range(100)))
    for event in batch[:50]:
        event.metadata["trace"] = "t"
    kept = ids(await run(Sampler(0.5, key="metadata.trace"), batch))
    assert len([one for one in kept if int(one) < 50]) in (0, 50)
    assert 10 < len([one for one in kept if int(one) >= 50]) < 40
    assert len(ids(await run(Sampler(0.5, key=lambda event: 1), batch))) in (0, 100)


async def test_a_key_function_that_raises_costs_only_its_event() -> None:
    outcome = await run(Sampler(1, key=lambda event: 1 // int(event.id)), events("1", "0", "2"))
    assert ids(outcome) == ["1", "2"]
    assert refused(outcome)["0"].startswith("MIDDLEWARE_ERROR: Sampler: ZeroDivisionError")


async def _async_key(event: Event) -> str:
    return event.id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: RateLimiter(rate=-1), "RateLimiter(rate=-1): must be a number above 0"),
        (lambda: RateLimiter(10, burst=0.5), "RateLimiter(burst=0.5): must be a number of at least 1"),
        (lambda: RateLimiter(10**400), "must be a number above 0"),
        (lambda: Sampler(10**400), "must be a number from 0 (none) to 1 (all)"),
        (lambda: RateLimiter(float("inf")), "RateLimiter(rate=inf): must be a number above 0"),
        (lambda: Throttle("5"), "Throttle(rate='5'): must be a number above 0"),  # type: ignore[arg-type]
        (lambda: Throttle(5, max_sources=0), "Throttle(max_sources=0): must be a whole number of at least 1"),
        (lambda: Sampler(50), "Sampler(rate=50): must be a number from 0 (none) to 1 (all)"),
        (lambda: Sampler(True), "Sampler(rate=True): must be a number from 0"),
        (lambda: Sampler(0.5, key="user"), "'event_type' or 'metadata.NAME', or a function"),
        (lambda: Sampler(0.5, key=_async_key), "must not be async"),
        (lambda: Sampler(0.5, seed="x"), "Sampler(seed='x'): must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_named_with_value_and_fix(arguments: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        arguments()
    assert message in str(caught.value)


async def test_a_source_has_a_bucket_for_each_tenant() -> None:
    step = as_step(Throttle(1, per="tenant"), FakeClock())
    given = events("a", "b", "c")
    given[2].metadata["tenant"] = "x"
    assert ids(await work(step, given)) == ["a", "c"]
    with pytest.raises(PlanError, match=r"Throttle\(per=3\)"):
        Throttle(1, per=3)  # type: ignore[arg-type]
