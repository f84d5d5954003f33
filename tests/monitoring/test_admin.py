"""The admin address, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from polku import Batch, Hub, Pipeline, SettingError, new_event
from polku.monitoring import admin
from polku.monitoring.address import DEFAULT
from tests.support.server import Server

TOKEN = "t0ken"


def partner(batch: Batch) -> None:
    """Take everything."""


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        yield pipeline


def get(
    address: str | None, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, str, Mapping[str, str]]:
    assert address is not None
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()


def test_statistics_are_the_tree_as_json(pipeline: Pipeline) -> None:
    status, body, headers = get(pipeline.admin_address, "/statistics")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body)["lanes"][0]["ingest"]["accepted"] == 1


def test_metrics_are_prometheus_text_or_openmetrics_where_asked_for(pipeline: Pipeline) -> None:
    status, body, headers = get(pipeline.admin_address, "/metrics")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert 'polku_component_sent_events_total{component="ingest"' in body
    accept = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"}
    _, body, headers = get(pipeline.admin_address, "/metrics", accept)
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_health_answers_three_questions(pipeline: Pipeline) -> None:
    assert get(pipeline.admin_address, "/health/live")[:2] == (200, "live\n")
    assert get(pipeline.admin_address, "/health/ready")[:2] == (200, "ready\n")
    status, body, _ = get(pipeline.admin_address, "/health?strict")
    assert status == 200
    assert json.loads(body)["components"]["emitter:partner"] == {"healthy": True, "message": "ok"}


def test_nothing_else_is_there_and_nothing_can_be_sent(pipeline: Pipeline) -> None:
    assert get(pipeline.admin_address, "/etc/passwd")[0] == 404
    assert get(pipeline.admin_address, "/statistics", method="POST")[0] == 405
    assert get(pipeline.admin_address, "/statistics", method="HEAD")[1] == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:50052"},
        {"Origin": "https://evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "null"},
    ],
)
def test_pages_of_strangers_cannot_read_it(pipeline: Pipeline, headers: dict[str, str]) -> None:
    assert get(pipeline.admin_address, "/statistics", headers)[0] == 403


def test_a_browser_runs_nothing_that_it_is_sent(pipeline: Pipeline) -> None:
    _, _, headers = get(pipeline.admin_address, "/health")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET http://evil/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_what_is_no_request_is_answered_and_ends_the_connection(pipeline: Pipeline, sent: bytes) -> None:
    assert pipeline.admin_address is not None
    host, _, port = pipeline.admin_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_connection_serves_request_after_request(pipeline: Pipeline) -> None:
    assert pipeline.admin_address is not None
    connection = http.client.HTTPConnection(pipeline.admin_address, timeout=30)
    for _ in range(3):
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b"live\n"
    connection.close()


def test_with_a_token_only_yes_and_no_are_told_without_it() -> None:
    hub = Hub(runtime="inline").emitter(partner)
    with hub.start(admin_addr="127.0.0.1:0", admin_token=TOKEN) as pipeline:
        address = pipeline.admin_address
        assert get(address, "/health/ready")[0] == 200
        for path in ("/health", "/metrics", "/statistics"):
            assert get(address, path)[0] == 401
            assert get(address, path, {"Authorization": "Bearer wrong"})[0] == 401
            assert get(address, path, {"Authorization": f"Bearer {TOKEN}"})[0] == 200


@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_token_may_read_numbers_and_no_events_and_change_nothing(token: str | None) -> None:
    hub = Hub(runtime="inline").emitter(partner)
    reads = {"Authorization": "Bearer r3ad"}
    with hub.start(admin_addr="0.0.0.0:0", admin_token=token, admin_read_token="r3ad") as pipeline:
        address = (pipeline.admin_address or "").replace("0.0.0.0", "127.0.0.1")
        for path in ("/health", "/metrics", "/statistics"):
            assert get(address, path)[0] == 401
            assert get(address, path, reads)[0] == 200
        private = [("GET", "/tap?session=a&out=*"), ("GET", "/explain?id=x"), ("GET", "/dead-letters")]
        changes = [("POST", f"/dead-letters/{verb}?all=1") for verb in ("replay", "drop")]
        for method, path in (*private, *changes, ("POST", "/reload")):
            assert get(address, path, reads, method)[0] == 401, path
            if token is not None:
                assert get(address, path, {"Authorization": f"Bearer {token}"}, method)[0] != 401, path


def test_the_two_tokens_differ() -> None:
    with pytest.raises(SettingError, match=r"POLKU_ADMIN_READ_TOKEN.*is POLKU_ADMIN_TOKEN too"):
        Hub(runtime="inline").emitter(partner).start(
            admin_addr="127.0.0.1:0", admin_token=TOKEN, admin_read_token=TOKEN
        )


def test_the_command_reads_the_token_that_reads(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("r3ad\n")
    variables = {"POLKU_ADMIN_ADDR": "127.0.0.1:0", "POLKU_ADMIN_READ_TOKEN_FILE": str(tmp_path / "token")}
    server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0", **variables)
    address = server.wait_for(server.err, r"admin on http://(\S+)")[1]
    assert get(address, "/metrics")[0] == 401
    assert get(address, "/metrics", {"Authorization": "Bearer r3ad"})[0] == 200
    assert server.stop() == 0


def test_an_address_that_others_reach_needs_a_token() -> None:
    with pytest.raises(SettingError, match="POLKU_ADMIN_TOKEN"):
        Hub(runtime="inline").emitter(partner).start(admin_addr="0.0.0.0:0")


def test_an_address_that_is_taken_is_an_error_and_nothing_is_left_running(pipeline: Pipeline) -> None:
    with pytest.raises(SettingError, match=r"admin_addr.*in use"):
        Hub(runtime="inline").emitter(partner).start(admin_addr=pipeline.admin_address)


def test_a_port_that_is_taken_by_others_is_passed_over_and_the_ready_line_says_which_is_open(tmp_path: Path) -> None:
    host, _, port = DEFAULT.rpartition(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # somebody else has it
            other.bind((host, int(port)))
            other.listen()
        server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0")
        address = server.wait_for(server.err, r"admin on http://(\S+)")[1]  # what a browser is given
        assert int(address.rpartition(":")[2]) > int(port)
        assert get(address, "/health/ready")[:2] == (200, "ready\n")
        assert server.stop() == 0


def test_a_library_opens_none_unless_it_asks_for_one() -> None:
    with Hub(runtime="inline").emitter(partner).start() as pipeline:
        assert pipeline.admin_address is None


def test_a_unix_socket_is_this_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with Hub(runtime="inline").emitter(partner).start(admin_addr=f"unix:{path}") as pipeline:
        assert pipeline.admin_address == f"unix:{path}"
        assert path.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")
    assert not path.exists()


def test_it_says_that_the_pipeline_drains() -> None:
    release = threading.Event()

    async def slow(batch: Batch) -> None:
        await asyncio.to_thread(release.wait, 10)

    pipeline = Hub(runtime="inline").emitter(slow).start(admin_addr="127.0.0.1:0")
    pipeline.sender().send(new_event("order", source="shop"))
    stopping = pipeline._stop(10.0)
    limit = time.monotonic() + 30
    while get(pipeline.admin_address, "/health/ready")[0] == 200:
        assert time.monotonic() < limit
    release.set()
    stopping.result()
    with pytest.raises(ConnectionError):
        get(pipeline.admin_address, "/health/live")


def test_it_answers_while_user_code_blocks_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_STUCK_SECONDS", 0.01)
    monkeypatch.setattr(admin, "_DEAD_SECONDS", 0.02)
    blocks, release = threading.Event(), threading.Event()

    async def blocker(batch: Batch) -> Batch:
        blocks.set()
        release.wait(60)
        return batch

    with Hub(runtime="inline").middleware(blocker).emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        address, sender = pipeline.admin_address, pipeline.sender()
        sending = threading.Thread(target=lambda: sender.send(new_event("order", source="shop")))
        sending.start()
        try:
            assert blocks.wait(60)
            limit = time.monotonic() + 30
            while (live := get(address, "/health/live"))[0] == 200:
                assert time.monotonic() < limit
            assert live[:2] == (503, "the event loop has not turned for 0 s\n")
            status, body, _ = get(address, "/health")
            assert (status, get(address, "/health/ready")[0]) == (503, 503)
            assert json.loads(body)["components"]["event_loop"]["message"].endswith("blocker blocks it")
            assert 'polku_stage_busy_seconds{component="' in get(address, "/metrics")[1]
            assert json.loads(get(address, "/statistics")[1])["lanes"][0]["ingest"]["open_messages"] == 1
        finally:
            release.set()
            sending.join()
        while get(address, "/health/live")[0] != 200:
            assert time.monotonic() < limit
        assert get(address, "/health?strict")[0] == 200


def test_its_thread_ends_with_the_pipeline() -> None:
    before = set(threading.enumerate())  # those of other pipelines may be about to end
    with Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        (thread,) = (new for new in set(threading.enumerate()) - before if new.name == "polku-admin")
        assert get(pipeline.admin_address, "/health/live")[0] == 200
    thread.join(30)
    assert not thread.is_alive()
