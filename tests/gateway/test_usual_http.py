"""Plain requests are answered without a framework, and everything else as before: on the bytes of a socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from polku import Hub, Limits, Pipeline
from polku.gateway.http import server
from polku.gateway.http.usual import BODY_BYTES, UsualHeads, may_be_usual

HEAD = "POST /v1/events?source=shop HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


def usual(body: bytes, head: str = HEAD) -> bytes:
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def event(event_id: str) -> bytes:
    return json.dumps({"id": event_id, "event_type": "t"}).encode()


class Taken:
    """A pipeline, and the ids that came out of it."""

    def __init__(self, pipeline: Pipeline, ids: list[str]) -> None:
        self.pipeline = pipeline
        self.ids = ids

    def connect(self) -> socket.socket:
        host, _, port = str(self.pipeline.http_address).rpartition(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def until(self, count: int) -> list[str]:
        deadline = time.monotonic() + 30
        while len(self.ids) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.ids


@pytest.fixture
def place() -> Iterator[Taken]:
    yield from running(Limits())


def running(limits: Limits) -> Iterator[Taken]:
    ids: list[str] = []

    def keep(batch: list[object]) -> None:
        ids.extend(str(getattr(one, "id", "")) for one in batch)

    hub = Hub(runtime="inline").limits(limits).emitter(keep)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        yield Taken(pipeline, ids)


def answer(sock: socket.socket) -> tuple[int, dict[str, object], dict[str, str]]:
    """Read one answer, and no byte behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    first, *fields = head.decode().split("\r\n")[:-2]
    headers = dict(field.split(": ", 1) for field in fields)
    body = b""
    while len(body) < int(headers["Content-Length"]):
        body += sock.recv(int(headers["Content-Length"]) - len(body))
    return int(first.split()[1]), json.loads(body), headers


def test_requests_of_one_connection_are_answered_in_order(place: Taken) -> None:
    with place.connect() as sock:
        for number in range(3):
            sock.sendall(usual(event(f"{number}")))
            status, ack, headers = answer(sock)
            assert (status, ack["event_ids"]) == (200, [f"{number}"])
            assert headers["Server"] == "polku"
            assert headers["Content-Type"] == "application/json"
            assert "Date" in headers
        sock.sendall(b"".join(usual(event(f"p{number}")) for number in range(50)))
        assert [answer(sock)[1]["event_ids"] for _ in range(50)] == [[f"p{number}"] for number in range(50)]
    assert place.until(53) == ["0", "1", "2", *[f"p{number}" for number in range(50)]]


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_request_may_come_in_pieces(place: Taken, size: int) -> None:
    request = usual(event("a")) + usual(json.dumps([{"id": f"b{n}", "event_type": "t"} for n in range(20)]).encode())
    with place.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), size):
            sock.sendall(request[start : start + size])
        assert answer(sock)[1]["event_ids"] == ["a"]
        assert len(answer(sock)[1]["event_ids"]) == 20  # type: ignore[arg-type]


def test_a_connection_goes_from_one_reader_to_the_other_and_loses_nothing(place: Taken) -> None:
    chunked = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    body = event("chunked")
    chunked += f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    with place.connect() as sock:
        sock.sendall(usual(event("a")) + usual(event("b")) + chunked + usual(event("c")))
        assert [answer(sock)[1]["event_ids"] for _ in range(4)] == [["a"], ["b"], ["chunked"], ["c"]]
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (usual(b"{"), 400),
        (usual(event("a"), HEAD.replace("application/json", "text/html")), 415),
        (usual(event("a"), HEAD + "Content-Encoding: br\r\n"), 415),
        (usual(event("a"), HEAD + "Content-Encoding: gzip\r\n"), 400),
        (usual(event("a"), HEAD + "Origin: https://elsewhere.example\r\n"), 403),
        (usual(event("a"), HEAD + "Transfer-Encoding: chunked\r\n"), 400),
        (usual(event("a"), HEAD + "Content-Length: 3\r\n"), 400),
        (usual(event("a"), HEAD + " folded: x\r\n"), 400),
        (usual(event("a"), HEAD.replace("POST", "PATCH")), 405),
        (usual(event("a"), HEAD.replace("events?", "eventsx?")), 404),
        (f"{HEAD}\r\n".encode(), 400),
    ],
)
def test_what_is_wrong_is_refused_as_before(place: Taken, request_: bytes, status: int) -> None:
    with place.connect() as sock:
        sock.sendall(request_)
        found, ack, _ = answer(sock)
        assert found == status
        assert ack["event_ids"] == []
        assert ack["errors"]


def test_the_name_of_the_source_is_read_as_a_framework_does(place: Taken) -> None:
    with place.connect() as sock:
        for query, named in (
            ("?source=a.b&source=c", "a.b"),
            ("?x=1&source=d", "d"),
            ("?source=%65%2B", "e+"),
            ("", "h"),
        ):
            head = HEAD.replace("?source=shop", query) + "X-Polku-Source: h\r\n"
            sock.sendall(usual(b'{"event_type": "t", "id": "x", "severity": "nonsense"}', head))
            assert answer(sock)[0] == 400
            sock.sendall(usual(b'{"event_type": "t"}', head))
            assert answer(sock)[0] == 200, named


def test_a_client_that_has_said_all_still_gets_its_answer(place: Taken) -> None:
    with place.connect() as sock:
        sock.sendall(usual(event("a")))
        sock.shutdown(socket.SHUT_WR)
        received = b"".join(iter(lambda: sock.recv(65_536), b""))
    assert b'"event_ids":["a"]' in received or received == b""  # it may have been closed before: it was accepted or not
    if received:
        assert place.until(1) == ["a"]


def test_a_body_that_does_not_come_is_refused_in_time() -> None:
    for place in running(Limits(read_seconds=1)):
        with place.connect() as sock:
            sock.sendall(usual(event("a"))[:-3])
            status, ack, _ = answer(sock)
            assert status == 408
            assert "body: not complete after 1 s" in str(ack["errors"])
            assert sock.recv(10) == b""


def test_bodies_that_come_in_part_are_bounded_together() -> None:
    for place in running(Limits(open_bytes=600_000, message_bytes=500_000)):
        head = f"{HEAD}Content-Length: {BODY_BYTES}\r\n\r\n".encode()
        socks = [place.connect() for _ in range(6)]
        for sock in socks:
            sock.sendall(head + b" " * (BODY_BYTES - 10))
        for sock in socks[:1]:
            sock.sendall(b" " * 10)
        assert answer(socks[0])[0] in (400, 429)
        statuses = []
        for sock in socks[1:]:
            sock.setblocking(False)
            try:
                statuses.append(sock.recv(100)[9:12])
            except BlockingIOError:
                statuses.append(b"")
            sock.close()
        socks[0].close()
        assert set(statuses) <= {b"", b"429"}


def test_a_connection_is_closed_after_the_answer_where_its_client_wants_that(place: Taken) -> None:
    with place.connect() as sock:
        sock.sendall(usual(event("1"), HEAD + "Connection: close\r\n") + usual(event("2")))
        status, _, headers = answer(sock)
        assert (status, headers["Connection"]) == (200, "close")
        assert sock.recv(1) == b""
    assert place.until(1) == ["1"]


def test_questions_for_the_health_are_answered_as_aiohttp_would(place: Taken) -> None:
    for path in ("/health", "/health?strict", "/health/live", "/health/ready"):
        answers = []
        for unusual in ("", "TE: trailers\r\n"):
            with place.connect() as sock:
                request = f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n{unusual}\r\n"
                sock.sendall(request.encode())
                head, _, body = sock.makefile("rb").read().partition(b"\r\n\r\n")
            fields = sorted(line for line in head.decode().split("\r\n")[1:] if not line.startswith("Date:"))
            answers.append((head.split(b"\r\n")[0], fields, body))
        assert answers[0] == answers[1]
        assert answers[0][0] == b"HTTP/1.1 200 OK"


def test_what_cannot_be_loaded_is_said_and_tried_again(
    place: Taken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chunked = (
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{len(event('1')):x}\r\n".encode() + event("1") + b"\r\n0\r\n\r\n"
    )
    name = server._UNUSUAL
    monkeypatch.setattr(server, "_UNUSUAL", "polku.gateway.http.nowhere")
    with place.connect() as sock:
        sock.sendall(chunked)
        status, ack, headers = answer(sock)
    assert (status, headers["Retry-After"], "cannot read this kind" in str(ack["errors"])) == (503, "1", True)
    assert "what reads all but plain requests cannot be loaded: ModuleNotFoundError" in caplog.text
    monkeypatch.setattr(server, "_UNUSUAL", name)
    with place.connect() as sock:
        sock.sendall(chunked)
        assert answer(sock)[0] == 200
    assert place.until(1) == ["1"]


def test_heads_that_are_not_plain_are_not_read_here() -> None:
    heads = UsualHeads()
    plain = usual(b"", HEAD + "X-Polku-Cluster: prod\r\n")
    found = heads.read(plain)
    assert found is not None
    assert heads.read(plain) is found
    assert (found.head.source, found.head.cluster, found.length, found.head.query) == ("shop", "prod", 0, "source=shop")
    for other in (
        plain.replace(b"HTTP/1.1", b"HTTP/1.0"),
        plain.replace(b"Host: here\r\n", b""),
        plain.replace(b"Host: here", b"Host: h\xc3\xa9re"),
        plain.replace(b"Host: here", b"Host : here"),
        plain.replace(b"Host: here", b"Host: he\nre"),
        plain.replace(b"Host: here", b"Host: here\r\nhost: there"),
        plain.replace(b"Length: 0", b"Length: +0"),
        plain.replace(b"Length: 0", f"Length: {BODY_BYTES + 1}".encode()),
        plain.replace(b"source=shop", b"source=s%20p"),
        plain.replace(b"POST /v1/events", b"POST http://here/v1/events"),
        plain.replace(b"X-Polku", b"Connection: upgrade\r\nX-Polku"),
        plain.replace(b"X-Polku", b"User-Agent: Mozilla/5.0\r\nX-Polku"),
    ):
        assert heads.read(other) is None, other
    for begin in (b"PO", b"GET /hea", b"GET /health/live HTTP/1.1\r\n"):
        assert may_be_usual(begin)
    assert not may_be_usual(b"GET /metrics")
