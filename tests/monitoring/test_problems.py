"""What is wrong with a pipeline, in order, and the commands for its dead letters."""

from __future__ import annotations

import shlex

import pytest
from msgspec.structs import replace

from polku import Batch, Hub
from polku.monitoring.problems import Deaths, Restarts, find_letters, find_problems
from polku.monitoring.statistics import DeadLetterCount, PartHealth, PipelineStatistics, ProcessStatistics

REASONS = {"UNDELIVERED": "unknown order", "CRASH": "it ends"}


def partner(batch: Batch) -> None:
    """Take everything."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> PipelineStatistics:
    path = tmp_path_factory.mktemp("letters") / "it's dead.db"
    with Hub(runtime="inline").dead_letters(str(path)).emitter(partner).start() as pipeline:
        return pipeline.statistics()


def test_what_holds_up_others_comes_first_and_then_the_longest(tree: PipelineStatistics) -> None:
    assert find_problems(tree, {}) == []
    parts = {
        "emitter:a": PartHealth(healthy=False, message="away", seconds=5.0),
        "emitter:b": PartHealth(
            healthy=False, message="gone", seconds=9.0, advice="look", command="nc", next_attempt_seconds=0.7
        ),
        "emitter:c": PartHealth(healthy=True, message="ok", holds_up="its share is full", seconds=1.0),
        "emitter:d": PartHealth(healthy=False, message="away", holds_up="its share is full", seconds=2.0),
        "emitter:e": PartHealth(healthy=False, message="away", holds_up="its share is full: away", seconds=1.5),
        "emitter:f": PartHealth(healthy=True, message="drops", seconds=3.0, advice="give it room"),
        "buffer": PartHealth(healthy=True, message="ok"),
    }
    found = find_problems(replace(tree, parts=parts), {"emitter:a": 3.0, "stage-1": 4.0})
    assert [(one.name, one.state, one.text, one.seconds) for one in found] == [
        ("emitter:d", "bad", "holds up what comes in: its share is full: away", 2.0),
        ("emitter:e", "bad", "holds up what comes in: its share is full: away", 1.5),
        ("emitter:c", "warn", "holds up what comes in: its share is full", 1.0),
        ("emitter:b", "bad", "gone", 9.0),
        ("emitter:a", "bad", "away", 5.0),
        ("emitter:f", "warn", "drops", 3.0),
        ("stage-1", "warn", "its process was started again, and works", 4.0),
    ]
    assert (found[3].advice, found[3].command, found[3].next_attempt) == ("look", "nc", "next attempt in 1 s")
    assert found[4].next_attempt == ""


def test_a_restart_is_told_once_it_was_seen() -> None:
    restarts = Restarts()
    for times, recent in ((3, []), (3, []), (4, ["stage-1"]), (4, ["stage-1"])):
        restarts.look({"stage-1": ProcessStatistics(pid=1, cpu_seconds=0.0, memory_bytes=0, restarts=times)})
        assert list(restarts.recent()) == recent


def test_dead_letters_are_added_up_and_listed_and_replayed_by_commands(tree: PipelineStatistics) -> None:
    def letters(lane: str, emitter: str, total: int) -> DeadLetterCount:
        return DeadLetterCount(lane=lane, part="buffer", emitter=emitter, code="UNDELIVERED", total=total, forgotten=1)

    counts = (letters("lane-1", "-$(x)", 2), letters("lane-2", "-$(x)", 3), letters("", "", 1))
    none, hostile = find_letters(replace(tree, dead_letters=counts), "it's")
    assert (hostile.total, hostile.forgotten, none.total) == (5, 2, 1)
    assert shlex.split(hostile.look) == [
        "polku", "dlq", "list", "--to=it's", "--emitter=-$(x)", "--code=UNDELIVERED"
    ]  # fmt: skip
    assert shlex.split(none.replay)[2:] == ["replay", "--to=it's", "--emitter=", "--code=UNDELIVERED"]
    in_memory = replace(tree.plan, dead_letters="")
    assert find_letters(replace(tree, plan=in_memory, dead_letters=counts), "it's")[0].replay == ""


def test_dead_letters_of_late_are_a_problem_and_those_of_before_are_not(
    tree: PipelineStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("polku.monitoring.problems.monotonic", lambda: now)
    deaths = Deaths()

    def look(*counts: tuple[str, str, int]) -> list[tuple[str, str, str]]:
        letters = [
            DeadLetterCount(
                lane="",
                part="buffer",
                emitter=emitter,
                code=code,
                total=total,
                forgotten=0,
                reason=REASONS.get(code, ""),
            )
            for emitter, code, total in counts
        ]
        deaths.look(replace(tree, dead_letters=tuple(letters)))
        return [(one.name, one.text, one.command) for one in deaths.recent("127.0.0.1:9")]

    assert look(("", "MIDDLEWARE_ERROR", 5)) == []  # who looks first does not know since when
    ask = "polku dlq list --to=127.0.0.1:9 --emitter="
    none = ("dead letters", "1 event lately: MIDDLEWARE_ERROR 1", f"{ask}''")
    assert look(("", "MIDDLEWARE_ERROR", 6)) == [none]
    now += 100.0
    shop = ("dead letters of shop", "3 events lately: CRASH 1, UNDELIVERED 2; the latest: it ends", f"{ask}shop")
    assert look(("", "MIDDLEWARE_ERROR", 6), ("shop", "UNDELIVERED", 2), ("shop", "CRASH", 1)) == [none, shop]
    now += 100.0
    assert look(("", "MIDDLEWARE_ERROR", 6), ("shop", "UNDELIVERED", 2), ("shop", "CRASH", 1)) == [shop]
    assert look(("", "MIDDLEWARE_ERROR", 2))[0] == ("dead letters", "2 events lately: MIDDLEWARE_ERROR 2", f"{ask}''")
