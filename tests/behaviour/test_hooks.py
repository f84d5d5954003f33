"""A `start` or `close` of user code that raises: everything else is closed, and the report is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polku import BufferStrategy, Event, Hub, IngestContext, new_event
from tests.behaviour.conftest import Start
from tests.support.recorder import Recorder


def fail() -> None:
    raise ConnectionError("the other side has gone")


def leave() -> None:
    sys.exit(1)


class Hooks:
    """Write down which hooks were called; raise in one of them."""

    def __init__(self, path: Path, name: str, failing: str = "", how: Callable[[], None] = fail) -> None:
        self.path = path
        self.name = name
        self.failing = failing
        self.how = how

    def _call(self, hook: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{self.name} {hook}\n")
        if hook == self.failing:
            self.how()

    def start(self) -> None:
        self._call("start")

    async def close(self) -> None:
        self._call("close")


class Step(Hooks):
    def process(self, events: list[Event]) -> list[Event]:
        return events


class Reader(Hooks):
    def ingest(self, data: bytes, context: IngestContext) -> list[Event]:
        return [Event(event_type=data.decode())]


class Out(Hooks):
    def __init__(self, path: Path, name: str, failing: str = "", how: Callable[[], None] = fail) -> None:
        super().__init__(path, name, failing, how)
        self.recorder = Recorder(path.with_name(f"{name}.events"))

    async def emit(self, batch: object) -> None:
        await self.recorder.emit(batch)  # type: ignore[arg-type]


def hub(folder: Path, failing: str, hook: str, how: Callable[[], None] = fail) -> Hub:
    calls = folder / "calls"

    def options(name: str) -> tuple[Path, str, str, Callable[[], None]]:
        return calls, name, hook if name == failing else "", how

    built = Hub().buffer_strategy(BufferStrategy.durable(str(folder / "journal")))
    built.ingestor(Reader(*options("reader")), source="s").middleware(Step(*options("step")))
    return built.emitter(Out(*options("out"))).emitter(Out(*options("other")))


WAYS = [(failing, how) for failing in ("reader", "step", "out") for how in (fail, leave)]
ON_RAY = [("step", fail)]  # the others are the same code there
CLOSES = [
    pytest.param(
        *(arrangement, failing, how),
        marks=[pytest.mark.slow] if arrangement == "chained" or (arrangement == "ray" and way not in ON_RAY) else [],
    )
    for arrangement in ("inline", "ray", "chained")
    for way in WAYS
    for failing, how in [way]
]


@pytest.mark.parametrize(("arrangement", "failing", "how"), CLOSES, indirect=["arrangement"])
def test_a_close_that_raises_costs_nobody_else_anything(
    start: Start, tmp_path: Path, failing: str, how: Callable[[], None]
) -> None:
    pipeline = start(hub(tmp_path, failing, "close", how))
    assert pipeline.sender().send(new_event("x", id="a"), timeout=30).ok
    report = pipeline.stop(20)
    assert report.complete
    assert report.emitters["out"].delivered == report.emitters["other"].delivered == 1
    closed = {line for line in (tmp_path / "calls").read_text().splitlines() if line.endswith("close")}
    assert closed == {"reader close", "step close", "out close", "other close"}
    again = start(hub(tmp_path, "", ""))  # its journal is unlocked
    assert again.sender().send(new_event("x", id="b"), timeout=30).ok
    assert again.stop(20).complete


@pytest.mark.parametrize("how", [fail, leave])
@pytest.mark.parametrize("failing", ["reader", "step", "out"])
def test_a_start_that_raises_leaves_nothing_open(tmp_path: Path, failing: str, how: Callable[[], None]) -> None:
    with pytest.raises(Exception, match=r"the other side has gone|SystemExit: 1"):
        hub(tmp_path, failing, "start", how).start(runtime="inline")
    calls = (tmp_path / "calls").read_text().splitlines()
    started, closed = ([line.split()[0] for line in calls if line.endswith(hook)] for hook in ("start", "close"))
    assert sorted(started) == sorted(closed)
    with hub(tmp_path, "", "").start(runtime="inline") as pipeline:
        assert pipeline.sender().send(new_event("x", id="b"), timeout=30).ok
