"""Background tasks have an owner that notices their end."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import polku
from polku import Aggregator, Event
from polku.aio.tasks import TaskSet
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt, outcome_of
from polku.buffer.strategy import BufferStrategy
from polku.clock import SystemClock
from polku.contracts import Flush, Part
from polku.dead_letters import DeadLetters
from polku.link.link import Link, LocalPeer
from polku.middleware.adapt import as_step
from polku.runtime.watch import Watch
from polku.stage.stage import Stage
from tests.buffer.parts import Bench, Destination, batch, until
from tests.support.hostile import HOSTILE


class Timer:
    """Fail as often as a test says, and then work."""

    def __init__(self, tasks: TaskSet, *errors: type[BaseException]) -> None:
        self.tasks = tasks
        self.errors = list(errors)
        self.rounds = 0

    async def run(self) -> None:
        while True:
            self.rounds += 1
            await asyncio.sleep(0)
            if self.errors:
                raise self.errors.pop(0)
            self.tasks.works("timer")


async def test_a_task_that_raises_is_begun_again_and_unhealthy_until_it_works() -> None:
    tasks = TaskSet("part", pause=0)
    timer = Timer(tasks, *HOSTILE, ValueError)
    tasks.keep_alive("timer", timer.run)
    await until(lambda: tasks.failures == 1)
    assert tasks.fault == "timer: CancelledError"
    await until(lambda: timer.rounds > 10)
    assert (tasks.fault, tasks.failures) == ("", len(HOSTILE) + 1)
    await tasks.close()
    assert len(tasks) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_task_that_a_stranger_cancels_is_begun_again_unless_the_owner_ends_it() -> None:
    tasks = TaskSet("part", pause=0)
    timer = Timer(tasks)
    tasks.keep_alive("timer", timer.run)
    for round in range(3):
        await until(lambda: timer.rounds > 10)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await until(lambda: tasks.fault == "timer: was cancelled by other code")
        timer.rounds = 0
        assert tasks.failures == round + 1
    await tasks.close()
    await asyncio.sleep(0.01)
    assert (timer.rounds, len(tasks)) == (0, 0)
    tasks.keep_alive("timer", timer.run)
    await until(lambda: timer.rounds > 10)
    await tasks.end("timer")
    assert (len(tasks), asyncio.all_tasks()) == (0, {asyncio.current_task()})


async def test_it_stays_unhealthy_while_it_fails_and_waits_between() -> None:
    tasks = TaskSet("part", pause=3600)
    timer = Timer(tasks, ValueError)
    tasks.keep_alive("timer", timer.run)
    await until(lambda: tasks.fault == "timer: ValueError")
    await asyncio.sleep(0)
    assert timer.rounds == 1
    await tasks.close()


async def test_the_tasks_of_one_name_are_cancelled_and_the_others_can_be_waited_for() -> None:
    tasks = TaskSet("part")
    done: list[str] = []
    wanted = asyncio.Event()

    async def feed() -> None:
        await asyncio.Event().wait()

    async def deliver() -> None:
        await wanted.wait()
        done.append("delivered")

    tasks.keep_alive("feeding", feed)
    tasks.start("delivery", deliver())
    await asyncio.sleep(0)
    tasks.cancel("feeding")
    wanted.set()
    await asyncio.wait_for(tasks.wait(), 30)
    assert done == ["delivered"]
    assert tasks.fault == ""


async def test_a_task_that_returns_has_ended_well() -> None:
    tasks = TaskSet("part")

    async def once() -> None:
        pass

    tasks.keep_alive("once", once)
    await tasks.wait()
    assert (tasks.fault, tasks.failures) == ("", 0)


@pytest.mark.parametrize("error", HOSTILE)
async def test_work_that_fails_is_seen_until_the_like_of_it_ends_well(error: type[BaseException]) -> None:
    tasks = TaskSet("part")

    async def work(*, well: bool) -> int:
        if not well:
            raise error
        return 3

    failing = tasks.start("work", work(well=False))
    await tasks.wait()
    assert tasks.fault == f"work: {error.__name__}"
    assert failing.exception() is not None
    assert await tasks.start("work", work(well=True)) == 3
    assert tasks.fault == ""


class Sulky:
    """Be a holder whose timer fails while a test says so."""

    name = "Sulky"
    drop_reason = "filtered"
    limit = (10, 1000)

    def __init__(self) -> None:
        self.fails = True
        self.events: list[Event] = []
        self.parts: list[Part] = []

    @property
    def held(self) -> tuple[int, int]:
        return len(self.events), 0

    def hold(self, events: list[Event], number: int) -> Sequence[Flush]:
        self.events += events
        self.parts += [Part(number, position) for position in range(len(events))]
        return []

    def due(self) -> float | None:
        return 0.0 if self.events else None

    def flush(self, *, everything: bool = False) -> Sequence[Flush]:
        if self.fails:
            raise SystemExit
        flush = Flush(self.events, self.parts)
        self.events, self.parts = [], []
        return [flush]


async def test_a_flush_timer_that_fails_is_begun_again_and_keeps_no_other_holder_from_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sulky = Sulky()
    destination = Destination()
    link = Link("stage", LocalPeer(destination))
    step = as_step(Aggregator(10, 0.001), SystemClock())
    stage = Stage([sulky, step], link, DeadLetters(), SystemClock())
    monkeypatch.setattr(stage._holdings._tasks, "_pause", 0.001)
    await stage.start()
    answer = asyncio.ensure_future(push(stage, batch("a")))
    await until(lambda: stage.statistics().fault != "")
    watch = Watch()
    watch.add_stage("stage", stage.statistics())
    assert watch.health(0).components["stage"] == (False, "flush timer: SystemExit")
    sulky.fails = False
    assert await asyncio.wait_for(answer, 30) == Receipt()
    await until(lambda: stage.statistics().fault == "")
    await stage.close()


async def push(stage: Stage, given: Batch) -> Receipt:
    answer = await stage.push(given)
    receipt = await outcome_of(answer)
    return Receipt(receipt.refused)


async def test_an_outlet_whose_feeding_fails_delivers_everything_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    destination = Destination()
    bench = Bench(BufferStrategy.ring(100), {"out": destination})
    outlet = bench.buffer.outlet("out")
    monkeypatch.setattr(outlet._tasks, "_pause", 0.001)
    fetch, faults = outlet._cursor._log.fetch, [MemoryError, KeyboardInterrupt, ValueError]

    async def broken(positions: list[int]) -> object:
        if faults:
            raise faults.pop(0)
        return await fetch(positions)

    monkeypatch.setattr(outlet._cursor._log, "fetch", broken)
    for number in range(5):
        await bench.push(batch(f"{number}"))
    await until(lambda: outlet._tasks.failures == 1)
    assert bench.buffer.statistics().outlets["out"].fault == "feeding: MemoryError"
    await asyncio.wait_for(bench.buffer.drain(), 30)
    assert destination.ids == ["0", "1", "2", "3", "4"]
    await until(lambda: bench.buffer.statistics().outlets["out"].fault == "")
    assert bench.buffer.statistics().outlets["out"].lag == 0
    await bench.buffer.close()


@pytest.mark.parametrize("error", [*HOSTILE, ValueError])
async def test_an_outlet_does_not_move_past_events_whose_dead_letters_cannot_be_kept(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polku.buffer.delivery._AGAIN_SECONDS", 0.001)
    bench = Bench(BufferStrategy.ring(100), {"out": Destination(refuses=["bad"])})
    outlet = bench.buffer.outlet("out")
    bury, faults = outlet._delivery._bury, [error]

    def broken(*given: Any) -> Any:
        if faults:
            raise faults[0]
        return bury(*given)

    monkeypatch.setattr(outlet._delivery, "_bury", broken)
    await bench.push(batch("good", "bad"))
    await until(lambda: error.__name__ in bench.buffer.statistics().outlets["out"].fault)
    assert bench.buffer.statistics().outlets["out"].lag == 2
    faults.clear()
    await asyncio.wait_for(bench.buffer.drain(), 30)
    state = bench.buffer.statistics().outlets["out"]
    assert (state.confirmed, state.dead, state.fault) == (1, 1, "")
    assert [letter.event.id for letter in bench.dead_letters.latest()] == ["bad"]
    await bench.buffer.close()


# Where tasks may be made without a `TaskSet`, and who is told how they end.
OWNED = {
    "polku/candidate/thread.py:ShadowThread._outcome": "awaited there; the thread ends it",
    "polku/candidate/thread.py:ShadowThread._run": "the thread lives as long as it does",
    "polku/ray_serve/emitter.py:_Caller.emit": "awaited there",
    "polku/actors/drain.py:drain": "awaited there",
    "polku/actors/changes.py:Changes.update": "awaited there; stop waits for it",
    "polku/actors/lanes.py:Lanes._empty": "awaited there",
    "polku/actors/lanes.py:Lanes.prepare": "awaited there",
    "polku/actors/node_watcher.py:NodeWatcher._add_lane": "awaited there",
    "polku/actors/object_ref_queue.py:ObjectRefQueue._hear": "awaited there",
    "polku/actors/object_ref_queue.py:ObjectRefQueue._ask_life": "awaited there, or cancelled",
    "polku/cli/sending.py:send": "cancelled there; it only says that nobody answers",
    "polku/aio/eager.py:start_eagerly": "whoever begins the work awaits it",
    "polku/buffer/remembered.py:_of_piece": "the push awaits it",
    "polku/buffer/buffer.py:Buffer.replay": "counted until it ends; the replay awaits the same outcome",
    "polku/buffer/enqueuing.py:Enqueuer.receipt_later": "the push awaits it",
    "polku/dead_letters/disk.py:StoredDeadLetters._take": "says its fault itself",
    "polku/dead_letters/disk.py:StoredDeadLetters.replay": "says its fault itself",
    "polku/emit/behind.py:WaitingBatches.answer": "awaited there, or by who asks for the receipt; close ends it",
    "polku/emit/delivery.py:Delivery.start_again": "says its fault itself; deliveries wait for it",
    "polku/dead_letters/replay.py:Replayer._look": "says its fault itself",
    "polku/dead_letters/replay.py:Replayer._send_all": "awaited there",
    "polku/emit/s3/objects.py:Objects.put": "calls await it, and close does",
    "polku/emit/grpc/grpcio.py:GrpcioCall.__init__": "its listener is told of its end",
    "polku/emit/grpc/grpcio.py:GrpcioChannel._replace": "nobody waits for a channel that is not used any more",
    "polku/runtime/inline.py:InlineRuntime.update": "awaited there",
    "polku/actors/supervisor.py:SupervisorShell._begin": "looks await it",
    "polku/emit/grpc/grpcio.py:GrpcioCall.end": "its listener is told of the end of the call",
    "polku/rpc/channel.py:Channel._begin_connecting": "calls await it, and close does",
    "polku/external/client.py:PluginClient._introduce": "calls await it",
    "polku/stage/fork.py:Fork.wait_room": "awaited there",
    "polku/gateway/grpc/protocol.py:GrpcConnection._take": "answers its call, whatever it ends with",
    "polku/gateway/grpc/protocol.py:GrpcConnection._take_packed": "hands over what it has decompressed, or answers",
    "polku/gateway/stream_ingest.py:StreamIngest.start": "the stream awaits it",
    "polku/gateway/pulling.py:Sources._run": "awaited there",
    "polku/gateway/pulling.py:Sources._begin": "begins a source again itself and says its fault",
    "polku/gateway/pulled_stream.py:Stream._begin": "the source awaits it",
    "polku/gateway/pulled_stream.py:Stream.push": "the source awaits it",
    "polku/gateway/pulled_stream.py:Stream.push_block": "the source awaits it",
    "polku/gateway/grpcio.py:GatewayServer._read": "the stream awaits it",
    "polku/gateway/grpcio.py:GatewayServer.stream_events": "awaited there",
    "polku/files/follower.py:_Run.follow": "cancelled there; its fault ends the source",
    "polku/files/stdin.py:_Reader._read": "awaited there",
    "polku/nats/emitter.py:_Publisher._wait": "awaited there",
    "polku/nats/puller.py:Puller._fetch": "awaited there",
    "polku/pull/in_flight.py:InFlight.add": "its answer is counted, and its fault ends the source",
    "polku/pull/acked_consumer.py:AckedConsumer.run": "its fault ends the source, close cancels it",
    "polku/hooks.py:_await_within": "awaited there",
    "polku/link/receiver.py:LinkReceiver._apply": "its sender asks for the outcome",
    "polku/link/receiver.py:LinkReceiver._apply_ready": "answers its push, whatever it ends with",
    "polku/link/receiver.py:LinkReceiver._hear_alone": "awaited there",
    "polku/kafka/puller.py:Puller._begin": "says its fault itself",
    "polku/kafka/puller.py:Puller._work": "awaited there",
    "polku/runtime/lane.py:Lane.drain_intake": "awaited there",
    "polku/link/link.py:Link._send": "answers its pushes, whatever it ends with",
    "polku/middleware/per_event.py:Each._await_each": "awaited there",
    "polku/link/quarantine.py:Work.release": "awaited there",
    "polku/stage/replicas.py:Replicas.push": "the push awaits it",
    "polku/stage/replicas.py:Replicas._wait_room": "awaited there",
    "polku/runtime/standstill.py:drain_within": "awaited there",
    "polku/stage/stage.py:Stage._work": "awaited there",
    "polku/actors/changes.py:Changes._alone": "awaited there; the stop cancels it",
    "polku/gateway/http/server.py:HttpServer._load": "connections wait for it, and the stop awaits it",
    "polku/stage/partitions.py:Partitions.push": "its sender asks for the outcome",
    "polku/stage/partitions.py:Partitions._wait_room": "awaited there",
    "polku/aio/tasks.py:TaskSet._add": "the set itself",
}

MAKERS = ("create_task", "ensure_future")


def functions(tree: ast.AST, before: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield each function with its qualified name; nested functions count as the one around them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, f"{before}{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{before}{node.name}", node


def makes_tasks(node: ast.AST) -> bool:
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS
        for call in ast.walk(node)
    )


def sources() -> Iterator[tuple[str, ast.AST]]:
    root = Path(polku.__file__).parent
    for path in sorted([*root.glob("**/*.py"), *(root / "actors").glob("*.py")]):
        name = f"polku/{path.relative_to(root)}"
        if not name.startswith(("polku/bench/", "polku/testing/")):
            text = path.read_text()
            if any(maker in text for maker in MAKERS):  # to parse all of them takes seconds
                yield name, ast.parse(text)


def test_no_task_is_made_that_nobody_owns() -> None:
    made = {f"{path}:{name}" for path, tree in sources() for name, node in functions(tree) if makes_tasks(node)}
    assert made - OWNED.keys() == set()


async def test_work_that_is_cancelled_before_its_first_step_is_closed() -> None:
    """Python warns of a coroutine that nobody ever awaited, and here a warning is an error."""
    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")

    tasks, begun = TaskSet("part"), work()
    tasks.start("work", begun)
    await tasks.close()
    assert steps == []
    assert inspect.getcoroutinestate(begun) == inspect.CORO_CLOSED
