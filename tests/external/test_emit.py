"""The ExternalEmitter against real plugin processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polku import Breaker, Event, ExternalEmitter, Hub, Pipeline, PlanError, Resilience, Retry, new_event
from polku.aio.slices import at_once
from polku.external.emit_response import reading_failures
from polku.v1.plugin_pb2 import EmitError, EmitResponse
from tests.external.program import Program, raw
from tests.external.test_ingest import eventually
from tests.tracing.spans import PARENT, TRACE, InMemory, id_of


class Out:
    """What the plugin wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def ids(self) -> list[str]:
        return [word for line in self.lines() if line.startswith("call") for word in line.split()[2:]]


@pytest.fixture
def out(tmp_path: Path) -> Out:
    return Out(tmp_path / "delivered")


@pytest.fixture
def run(tmp_path: Path, out: Out) -> Iterator[Callable[..., Program]]:
    started: list[Any] = []

    def run(**environment: str) -> Program:
        manager: Any = raw(tmp_path, "emitter", OUT=str(out.path), **environment)
        started.append(manager)
        program: Program = manager.__enter__()
        return program

    yield run
    for manager in started:
        manager.__exit__(None, None, None)


def quick(emitter: ExternalEmitter) -> Resilience:
    return Resilience(emitter, retry=Retry(first=0.05, limit=0.2), breaker=Breaker(open_for=0.2))


def start(plugin: Program, name: str = "archive", **options: Any) -> Pipeline:
    options = {"timeout": 1.0, "health_interval": 0.2, **options}
    return Hub(runtime="inline").emitter(quick(ExternalEmitter(name, plugin.address, **options))).start()


def send(pipeline: Pipeline, *events: tuple[str, str]) -> None:
    assert pipeline.sender().send([new_event(kind, id=event_id) for event_id, kind in events]).ok


def test_events_arrive_in_order_and_shutdown_is_called_at_the_end(run: Callable[..., Program], out: Out) -> None:
    with start(run()) as pipeline:
        send(pipeline, *((f"e{number}", "ok") for number in range(100)))
    assert out.ids() == [f"e{number}" for number in range(100)]
    assert out.lines()[-1] == "shutdown"
    assert out.lines().count("shutdown") == 1


def test_events_without_a_trace_of_their_own_have_the_one_of_the_pipeline(
    run: Callable[..., Program], out: Out
) -> None:
    spans, plugin = InMemory(), run()
    emitter = quick(ExternalEmitter("archive", plugin.address))
    with Hub(runtime="inline").traces(spans).emitter(emitter).start() as pipeline:
        events = [new_event("ok", metadata={"traceparent": PARENT}), new_event("ok")]
        assert pipeline.sender().send(events).ok
    (emit,) = spans.named("emit")
    own = f"00-{TRACE}-{id_of(emit):016x}-01"
    assert out.path.with_suffix(".traces").read_text().split() == [PARENT, own]


def test_the_routing_name_may_differ_from_the_plugins_own(run: Callable[..., Program], out: Out) -> None:
    with start(run(EMITTER_NAME="cold-store"), "cold-store") as pipeline:
        send(pipeline, ("one", "ok"))
        eventually(lambda: out.ids() == ["one"])
        assert pipeline.health().components["emitter:cold-store"][0]


def test_an_event_for_which_a_plugin_refuses_a_call_costs_only_itself(run: Callable[..., Program], out: Out) -> None:
    with start(run()) as pipeline:
        send(pipeline, *((f"e{number}", "invalid" if number == 5 else "ok") for number in range(8)))
        eventually(lambda: len(pipeline.dead_letters()) == 1)
        (letter,) = pipeline.dead_letters()
        assert (letter.event.id, "there is no such thing" in letter.reason) == ("e5", True)
    assert sorted(out.ids()) == [f"e{number}" for number in range(8) if number != 5]


@pytest.mark.parametrize("places", [{0}, {7}, {0, 1, 2, 3, 4, 5, 6}, {3, 4, 17, 39}])
def test_an_event_for_which_a_plugin_raises_costs_only_itself(
    run: Callable[..., Program], out: Out, places: set[int]
) -> None:
    with start(run()) as pipeline:
        send(pipeline, *((f"e{number}", "raise" if number in places else "ok") for number in range(40)))
        eventually(lambda: {letter.event.id for letter in pipeline.dead_letters()} == {f"e{at}" for at in places})
        assert all("its code fails for this event" in letter.reason for letter in pipeline.dead_letters())
        assert all("no such column" in letter.reason for letter in pipeline.dead_letters())
        assert pipeline.health().healthy
    good = [f"e{number}" for number in range(40) if number not in places]
    assert sorted(out.ids()) == sorted(good)
    assert out.ids() == good or len(places) > 4  # parts of a batch may pass others whose code seems to fail for all


def test_an_event_for_which_a_plugin_raises_holds_up_nothing_where_it_is_alone(
    run: Callable[..., Program], out: Out
) -> None:
    with start(run()) as pipeline:
        for number in range(4):
            send(pipeline, (f"bad{number}", "raise"))
            send(pipeline, (f"good{number}", "ok"))
        eventually(lambda: {*out.ids()} == {f"good{number}" for number in range(4)})
        eventually(lambda: {letter.event.id for letter in pipeline.dead_letters()} == {f"bad{at}" for at in range(4)})


def test_a_plugin_that_raises_for_all_is_tried_again_as_one_that_is_down(
    run: Callable[..., Program], out: Out, tmp_path: Path
) -> None:
    plugin = run()
    broken = tmp_path / "delivered.broken"
    broken.touch()
    with start(plugin) as pipeline:
        send(pipeline, *((f"e{number}", "ok") for number in range(40)))
        eventually(lambda: retries(pipeline) > 12)
        assert not pipeline.health().healthy
        assert "no table" in pipeline.health().components["emitter:archive"][1]
        assert pipeline.dead_letters() == []
        broken.unlink()
        eventually(lambda: len(out.ids()) == 40)
        assert pipeline.dead_letters() == []
    assert {*out.ids()} == {f"e{number}" for number in range(40)}


@pytest.mark.parametrize("number", [4, 60])
def test_a_batch_for_every_event_of_which_a_plugin_raises_does_not_hold_up_what_comes_behind_it(
    run: Callable[..., Program], out: Out, number: int
) -> None:
    with start(run()) as pipeline:
        bad = [f"bad{at}" for at in range(number)]
        send(pipeline, *((name, "raise") for name in bad))
        eventually(lambda: retries(pipeline) > 5)
        assert pipeline.dead_letters() == []  # nothing tells it from a plugin that is down
        good = [f"good{at}" for at in range(5)]
        for name in good:
            send(pipeline, (name, "ok"))
        eventually(lambda: {*out.ids()} == {*good})
        eventually(lambda: {letter.event.id for letter in pipeline.dead_letters()} == {*bad})
        eventually(lambda: pipeline.health().healthy)
    assert sorted(out.ids()) == good  # what was sent ahead of its turn was sent once


def test_what_waits_behind_a_plugin_that_raises_for_all_arrives_once_when_it_is_back(
    run: Callable[..., Program], out: Out, tmp_path: Path
) -> None:
    plugin = run()
    broken = tmp_path / "delivered.broken"
    broken.touch()
    with start(plugin) as pipeline:
        names = [f"e{at}" for at in range(30)]
        for at in range(0, 30, 10):
            send(pipeline, *((name, "ok") for name in names[at : at + 10]))
        eventually(lambda: retries(pipeline) > 25)
        assert pipeline.dead_letters() == []
        broken.unlink()
        eventually(lambda: len(out.ids()) >= 30)
        assert pipeline.dead_letters() == []
    assert sorted(out.ids()) == sorted(names)


def retries(pipeline: Pipeline) -> int:
    return sum(lane.emitters["archive"].retries for lane in pipeline.statistics().lanes)


def test_failed_events_are_tried_again_or_become_dead_letters(run: Callable[..., Program], out: Out) -> None:
    pipeline = start(run())
    with pipeline:
        send(pipeline, ("a", "ok"), ("b", "later"), ("c", "never"), ("d", "ok"))
        eventually(lambda: Counter(out.ids()) == {"a": 1, "b": 1, "d": 1})
        assert out.lines() == ["call 4 a d", "call 1 b"]
    report = pipeline.stop().emitters["archive"]
    assert (report.delivered, report.dead) == (3, 1)


@pytest.mark.parametrize("trick", ["wrong", "short"])
def test_an_answer_that_does_not_add_up_confirms_nothing_that_it_does_not_name(
    run: Callable[..., Program], out: Out, trick: str
) -> None:
    with start(run()) as pipeline:
        send(pipeline, ("a", "ok"), ("b", trick), ("c", "never"))
        eventually(lambda: "b" in out.ids())
    assert Counter(out.ids()) == {"a": 2, "b": 1}


def test_a_failed_event_without_an_error_is_tried_again(run: Callable[..., Program], out: Out) -> None:
    with start(run()) as pipeline:
        send(pipeline, ("a", "ok"), ("b", "unnamed"))
        eventually(lambda: out.ids() == ["a", "b"])


def test_a_plugin_that_dies_in_mid_call_gets_the_events_again(run: Callable[..., Program], out: Out) -> None:
    plugin = run()
    with start(plugin) as pipeline:
        send(pipeline, ("before", "ok"))
        eventually(lambda: out.ids() == ["before"])
        send(pipeline, ("one", "ok"), ("two", "die"))
        eventually(lambda: plugin.process is not None and plugin.process.poll() is not None)
        send(pipeline, ("three", "ok"))
        eventually(lambda: not pipeline.health().components["emitter:archive"][0])
        plugin.kill()
        plugin.start()
        eventually(lambda: out.ids() == ["before", "one", "two", "three"])
        eventually(lambda: pipeline.health().components["emitter:archive"][0])


def test_a_call_that_hangs_is_cut_off_and_repeated(run: Callable[..., Program], out: Out) -> None:
    with start(run(), timeout=0.5) as pipeline:
        send(pipeline, ("one", "hang"))
        eventually(lambda: out.ids() == ["one"])


def test_batches_are_split_at_the_plugins_own_limit(run: Callable[..., Program], out: Out) -> None:
    pipeline = start(run(LIMIT="60000"))
    with pipeline:
        events = [Event(id=f"e{n}", event_type="ok", payload=bytes(10_000)) for n in range(30)]
        assert pipeline.sender().send([*events, Event(id="giant", payload=bytes(100_000))]).ok
        eventually(lambda: len(out.ids()) == 30)
    assert out.ids() == [f"e{number}" for number in range(30)]
    report = pipeline.stop().emitters["archive"]
    assert (report.delivered, report.dead) == (30, 1)


def test_an_emitter_of_another_name_gets_nothing_and_health_says_why(run: Callable[..., Program], out: Out) -> None:
    with start(run(NAME="somebody")) as pipeline:
        send(pipeline, ("one", "ok"))
        eventually(lambda: not pipeline.health().components["emitter:archive"][0])
        text = pipeline.health().components["emitter:archive"][1]
        assert "expected an emitter called 'archive', got name='somebody'" in text
        pipeline.stop(0.2)
    assert out.ids() == []


@pytest.mark.parametrize(
    ("response", "failed"),
    [
        (EmitResponse(success_count=3), {}),
        (EmitResponse(success_count=2, failed_event_ids=["a"]), {"a": True}),
        (
            EmitResponse(success_count=2, errors=[EmitError(event_id="a", message="no", retryable=False)]),
            {"a": False},
        ),
        (EmitResponse(success_count=3, failed_event_ids=["a"]), {"a": True, "b": True, "c": True}),
        (EmitResponse(), {"a": True, "b": True, "c": True}),
        (EmitResponse(success_count=-1), {"a": True, "b": True, "c": True}),
        (EmitResponse(success_count=3, failed_event_ids=["x"]), {"a": True, "b": True, "c": True}),
    ],
)
def test_what_an_answer_says_of_three_events(response: EmitResponse, failed: dict[str, bool]) -> None:
    failures = at_once(reading_failures(["a", "b", "c"], response))
    assert {failure.event_id: failure.retryable for failure in failures} == failed


def test_what_can_never_work_is_an_error_when_it_is_written() -> None:
    with pytest.raises(PlanError, match="name"):
        ExternalEmitter("", "host:1")
    with pytest.raises(PlanError, match="no port"):
        ExternalEmitter("x", "host")
    with pytest.raises(PlanError, match="concurrency"):
        ExternalEmitter("x", "host:1", concurrency=0)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_on_ray_as_well(run: Callable[..., Program], out: Out) -> None:
    plugin = run()
    hub = Hub().emitter(ExternalEmitter("archive", plugin.address, health_interval=0.2))
    with hub.start(runtime="ray") as pipeline:
        send(pipeline, ("one", "ok"))
        eventually(lambda: out.ids() == ["one"])
    assert out.lines()[-1] == "shutdown"
