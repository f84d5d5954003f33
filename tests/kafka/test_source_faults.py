"""The KafkaSource while brokers, members of its group, commits or its own pipeline fail or are full."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polku import BufferStrategy, Event, Hub, KafkaEmitter, KafkaSource, Transform
from polku.aio import loop_thread
from polku.kafka import client
from polku.kafka.consumer import Consumer
from polku.kafka.reading import Reader
from polku.log import RepeatedLog
from tests.kafka.broker import OFFSET_COMMIT, TOPIC_AUTHORIZATION, UNKNOWN_TOPIC, Cluster
from tests.kafka.clients import committed, wait_for, write
from tests.kafka.sources import QUICK, events, source
from tests.support.recorder import Recorder


def test_a_partition_whose_work_ends_is_an_alarm_and_begins_again(
    cluster: Cluster, topic: str, out: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_record = Reader.read
    failing = True

    def cancelled(self: Reader, message: Any) -> Any:
        if failing:
            raise asyncio.CancelledError
        return read_record(self, message)

    monkeypatch.setattr(Reader, "read", cancelled)
    write(cluster.bootstrap, topic, events(3), partition=1)
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:kafka"][0])
        assert f"the work on partition 1 of topic {topic} was cancelled" in str(pipeline.health().components)
        failing = False
        assert [event.id for event in out.wait_for(3)] == ["e00000", "e00001", "e00002"]


def test_brokers_that_cannot_be_reached_write_one_line_for_each_component(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client, "LOG", RepeatedLog(logging.getLogger("polku.kafka")))
    quick = {"reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 20}
    pulled = KafkaSource("t", "g", bootstrap_servers="127.0.0.1:1", decode="event", config=quick)
    emitter = KafkaEmitter("t", bootstrap_servers="127.0.0.1:1", config=quick, name="out")
    with Hub(runtime="inline").source(pulled).emitter(emitter).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:kafka"][0])
        time.sleep(1.5)  # some sixty tries to connect
    lines = [r for r in caplog.records if r.levelno >= logging.WARNING and r.name == "polku.kafka"]
    assert len(lines) == 2, caplog.messages
    assert "Connection refused" in caplog.text


def test_nothing_is_committed_before_it_is_delivered_where_that_is_asked_for(
    cluster: Cluster, topic: str, out: Recorder
) -> None:
    write(cluster.bootstrap, topic, events(10), partition=0)
    out.hold()
    pulled = source(cluster, topic, commit_seconds=0.05)
    with Hub(runtime="inline").source(pulled).ack("delivered").emitter(out).start() as pipeline:
        wait_for(lambda: "10 records" in pipeline.health().components["source:kafka"][1])
        time.sleep(0.5)
        assert committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] < 0
        out.release()
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 10)


def test_a_pipeline_that_takes_nothing_bounds_what_is_pulled(cluster: Cluster, topic: str, out: Recorder) -> None:
    values = [Event(id=f"e{n:05d}", source="s", payload=bytes(500)).SerializeToString() for n in range(3_000)]
    for partition in range(3):
        write(cluster.bootstrap, topic, values[partition::3], partition=partition)
    out.hold()
    pulled = source(cluster, topic, window=300, config={**QUICK, "queued.max.messages.kbytes": 512})
    hub = Hub(runtime="inline").source(pulled).buffer_strategy(BufferStrategy.ring(100)).emitter(out)
    with hub.start() as pipeline:

        def under_way() -> int:
            found = re.search(r"(\d+) in flight", pipeline.health().components["source:kafka"][1])
            return int(found[1]) if found else 0

        wait_for(lambda: under_way() > 300)
        time.sleep(0.5)
        assert under_way() <= 3 * (101 + 4 * 31)  # some may have been on their way here already
        out.release()
        got = out.wait_for(3_000, 60)
    for partition in range(3):
        mine = [event.id for event in got if int(event.id[1:]) % 3 == partition]
        assert mine == sorted(mine)
    assert len(got) == len({event.id for event in got})


@pytest.mark.parametrize(("decode", "event_time"), [("event", 0), ("event", 7), ("record", 0)])
def test_what_a_full_buffer_refuses_is_tried_again_until_it_is_in(
    cluster: Cluster, topic: str, out: Recorder, decode: str, event_time: int
) -> None:
    write(cluster.bootstrap, topic, events(1_000, time=event_time), partition=0)
    out.hold()
    buffer = BufferStrategy.ring(50, overflow="drop_newest")

    def mark(event: Event) -> None:
        assert "seen" not in event.metadata, "it comes as it was pulled, each time"
        event.metadata["seen"] = "1"

    hub = Hub(runtime="inline").source(source(cluster, topic, decode=decode)).middleware(Transform(mark))
    with hub.buffer_strategy(buffer).emitter(out).start() as pipeline:
        time.sleep(1.0)
        out.release()
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 1_000)
        assert pipeline.stop(20).complete
        assert not pipeline.dead_letters()
    named = {f"e{n:05d}" if decode == "event" else f"{topic}-0-{n}" for n in range(1_000)}
    assert {event.id for event in out.events()} == named


def test_a_partition_whose_records_are_not_taken_is_paused_alone(
    cluster: Cluster, topic: str, out: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    paused: list[int] = []
    pause = Consumer.pause

    def noted(self: Consumer, place: tuple[str, int]) -> None:
        paused.append(place[1])
        pause(self, place)

    async def held(data: bytes) -> list[Event]:
        if data == b"slow":
            await released.wait()
        return [Event(event_type="line", payload=data)]

    async def release() -> None:
        released.set()

    monkeypatch.setattr(Consumer, "pause", noted)
    write(cluster.bootstrap, topic, [b"slow"] * 2_000, partition=0)
    pulled = source(cluster, topic, decode="ingestor", window=300)
    with Hub(runtime="inline").default_ingestor(held).source(pulled).emitter(out).start() as pipeline:
        wait_for(lambda: paused == [0])
        write(cluster.bootstrap, topic, [b"fast"] * 2_000, partition=1)
        assert {event.payload for event in out.wait_for(2_000)} == {b"fast"}

        def pulled_of_the_slow() -> int:
            text = pipeline.health().components["source:kafka"][1]
            return int(re.findall(r"(\d+) in flight", text)[0])

        wait_for(lambda: 100 < pulled_of_the_slow() < 300)  # no more than there is room for
        loop_thread.submit(release()).result(30)
        out.wait_for(4_000)
        assert pipeline.stop(30).complete


def test_brokers_that_are_down_at_the_start_and_die_later_show_in_health(tmp_path: Path) -> None:
    out = Recorder(tmp_path / "out")
    with Cluster("in:1") as cluster:
        write(cluster.bootstrap, "in", events(10))
        cluster.tell("down", 1)
        with Hub(runtime="inline").source(source(cluster, "in")).emitter(out).start() as pipeline:

            def alarm() -> str:
                healthy, text = pipeline.health().components["source:kafka"]
                return "" if healthy else text

            wait_for(alarm)
            assert "no broker can be reached" in alarm()
            cluster.tell("up", 1)
            out.wait_for(10)
            wait_for(lambda: not alarm())
            cluster.tell("down", 1)
            wait_for(alarm)
            cluster.tell("up", 1)
            wait_for(lambda: not alarm())
            write(cluster.bootstrap, "in", events(10, 10))
            got = out.wait_for(20)
            assert pipeline.stop(20).complete
    assert list(dict.fromkeys(event.id for event in got)) == [f"e{n:05d}" for n in range(20)]


@pytest.mark.parametrize(
    ("code", "name"), [(UNKNOWN_TOPIC, "UNKNOWN_TOPIC_OR_PART"), (TOPIC_AUTHORIZATION, "TOPIC_AUTHORIZATION_FAILED")]
)
def test_a_topic_that_is_not_there_or_not_for_us_shows_in_health(
    cluster: Cluster, topic: str, out: Recorder, code: int, name: str
) -> None:
    cluster.tell("topic-error", topic, code)
    with Hub(runtime="inline").source(source(cluster, topic)).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:kafka"][0])
        assert name in pipeline.health().components["source:kafka"][1]


def test_a_commit_that_fails_is_made_again(cluster: Cluster, topic: str, out: Recorder) -> None:
    write(cluster.bootstrap, topic, events(10), partition=0)
    cluster.tell("errors", OFFSET_COMMIT, TOPIC_AUTHORIZATION)
    with Hub(runtime="inline").source(source(cluster, topic, commit_seconds=0.1)).emitter(out).start():
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 10)


def test_a_second_member_takes_partitions_over_and_nothing_is_lost(
    cluster: Cluster, topic: str, tmp_path: Path
) -> None:
    one, two = Recorder(tmp_path / "one"), Recorder(tmp_path / "two")
    first = Hub(runtime="inline").source(source(cluster, topic)).emitter(one).start()
    for partition in range(3):
        write(cluster.bootstrap, topic, events(200, 200 * partition), partition=partition)
    one.wait_for(600)
    wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3) == [200, 200, 200])
    second = Hub(runtime="inline").source(source(cluster, topic)).emitter(two).start()
    wait_for(lambda: "0 partitions" not in second.health().components["source:kafka"][1])
    for partition in range(3):
        write(cluster.bootstrap, topic, events(200, 1_000 + 200 * partition), partition=partition)
    wait_for(lambda: len(one.events()) + len(two.events()) >= 1_200)
    assert two.events(), "the second member got a share"
    wait_for(
        lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3) == [400, 400, 400]
    )  # by both, and settled
    assert first.stop(60).complete
    for partition in range(3):
        write(cluster.bootstrap, topic, events(200, 2_000 + 200 * partition), partition=partition)
    ids = [*(e.id for e in one.events()), *(e.id for e in two.events())]
    assert len(ids) == len(set(ids)) == 1_200, "a rebalance among the living repeats nothing"
    wait_for(lambda: len(one.events()) + len(two.events()) >= 1_800)
    assert second.stop(60).complete
    for recorder in (one, two):
        for partition in range(3):
            mine = [e.id for e in recorder.events() if int(e.id[1:]) % 1_000 // 200 == partition]
            first_time = list(dict.fromkeys(mine))
            assert first_time == sorted(first_time)
    ids = [e.id for recorder in (one, two) for e in recorder.events()]
    assert len(set(ids)) == 1_800


def test_a_killed_process_repeats_and_loses_nothing(cluster: Cluster, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    out = Recorder(file)
    write(cluster.bootstrap, topic, events(2_000), partition=0)

    def begin(commit_seconds: float) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "tests.kafka.source_program", cluster.bootstrap, topic, f"group-{topic}"]
        return subprocess.Popen([*program, str(file), str(commit_seconds)], stdout=subprocess.PIPE, text=True)

    victim = begin(3_600)  # it is answered, and never gets to commit
    try:
        out.wait_for(2_000)
    finally:
        victim.kill()
        victim.communicate()
    assert committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] < 0
    write(cluster.bootstrap, topic, events(500, 2_000), partition=0)
    heir = begin(0.1)
    try:
        wait_for(lambda: committed(cluster.bootstrap, f"group-{topic}", topic, 3)[0] == 2_500, 60)
        wait_for(lambda: len({event.id for event in out.events()}) == 2_500)  # and some twice, out of its journal
    finally:
        heir.terminate()
        heir.communicate()
    got = out.events()
    assert len(got) >= 4_500
    assert list(dict.fromkeys(event.id for event in got)) == [f"e{n:05d}" for n in range(2_500)]
