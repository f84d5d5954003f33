"""Lanes that come get their share of the clients that are connected; no call of these fails, nor where lanes go."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from polku import Event, Hub, Pipeline
from polku.testing import Oracle
from polku.v1.gateway_pb2 import IngestEvent
from tests.clients import toolchains
from tests.clients.driver import Driver
from tests.ray.test_lanes import PAUSE, Clients, check, received, until
from tests.ray.test_scaling import Load
from tests.support.recorder import Recorder

pytestmark = pytest.mark.usefixtures("ray_session")


class Posting:
    """HTTP clients that keep their connection, and send one event after the other over it until the end."""

    def __init__(self, pipeline: Pipeline, clients: int) -> None:
        self.acked: list[str] = []
        self.errors: list[str] = []
        self._address = str(pipeline.http_address)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Posting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, client: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        try:
            number = 0
            while not self._end.is_set():
                name = f"http-{client}-{number}"
                body = f'{{"id": "{name}", "event_type": "t"}}'
                connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()  # where that said `Connection: close`, the next one connects again
                assert (answer.status, bool(answer.read())) == (200, True)
                self.acked.append(name)
                number += 1
                time.sleep(PAUSE)
        except BaseException as error:
            self.errors.append(repr(error))
        finally:
            connection.close()


def connections(pipeline: Pipeline, protocol: str) -> Mapping[str, int]:
    """Return how many connections each lane has."""
    found: dict[str, int] = {}
    for lane in pipeline.statistics().lanes:
        found[lane.name] = 0 if lane.ingest is None else lane.ingest.connections.get(protocol, 0)
    return found


def version(lanes: int, recorder: Recorder) -> Hub:
    return Hub(runtime="ray").lanes(lanes).chain().emitter(recorder, name="out")


def are_spread(pipeline: Pipeline, protocol: str, least: int, lanes: int = 3) -> bool:
    found = connections(pipeline, protocol)
    return len(found) == lanes and min(found.values()) >= least


def test_clients_that_are_connected_come_to_new_lanes_and_leave_those_that_go_and_none_fails(tmp_path: Path) -> None:
    recorder, oracle = Recorder(tmp_path / "out"), Oracle(["out"])
    with version(1, recorder).start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        load, posting = Load(pipeline, oracle, "c", 24, pause=PAUSE), Posting(pipeline, 12)
        with Clients(pipeline, "other") as others:
            with load, posting:
                load.until(lambda: connections(pipeline, "grpc").get("", 0) >= 26, go_on=100)
                pipeline.update_plan(version(3, recorder).plan("ray"), timeout=30)
                load.until(lambda: are_spread(pipeline, "grpc", 4) and are_spread(pipeline, "http", 1), go_on=100)
                others.go_on()
            asyncio.run(pipeline.scale(1, timeout=30))
            until(lambda: list(received(pipeline)) == ["lane-1"])
            others.go_on()
            sent = others.end()
        report = pipeline.stop()
    assert (load.errors, posting.errors, report.loss) == ([], [], "")
    # An event of a stream that has ended without its answer is sent again.
    got = [event.id for event in recorder.events()]
    check([*sent, *posting.acked], got, once=lambda each: "_stream" not in each)
    mine = [event for event in recorder.events() if not event.id.startswith(("other", "http"))]
    oracle.delivered("out", mine)
    oracle.verdict().check(duplicates=False, order=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_go_clients_move_too(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out")
    command = toolchains.go_client(tmp_path)
    path = "/polku.v1.Gateway/SendEvent"
    codes: list[int] = []
    end = threading.Event()

    def run(client: int, driver: Driver) -> None:
        number = 0
        while not end.is_set():
            message = IngestEvent(event=Event(id=f"go-{client}-{number}", event_type="t")).SerializeToString()
            codes.append(driver.unary(path, message).code)
            number += 1

    with version(1, recorder).start(grpc_addr="127.0.0.1:0") as pipeline, contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(Driver(command, str(pipeline.address))) for _ in range(10)]
        threads = [threading.Thread(target=run, args=each) for each in enumerate(drivers)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: connections(pipeline, "grpc").get("") == 10)
            pipeline.update_plan(version(2, recorder).plan("ray"), timeout=30)
            until(lambda: are_spread(pipeline, "grpc", 2, lanes=2))
        finally:
            end.set()
            for thread in threads:
                thread.join(60)
        assert set(codes) == {0}
        stack.close()
        report = pipeline.stop()
    assert not report.loss
    assert len({event.id for event in recorder.events()}) == len(codes)
