"""A command that asks again and again does so over one connection, and opens another where that has ended."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest

from polku import Hub, StdoutEmitter
from polku.cli.admin_client import AdminAddress, Repeatedly


class Server(http.server.ThreadingHTTPServer):
    """Count connections; each ends after `most` requests."""

    daemon_threads = True
    connections = 0
    most = 1_000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1
        self.seen = 0

    def do_GET(self) -> None:
        self.seen += 1
        body = self.headers.get("Authorization", "").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = self.seen >= self.server.most

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_one_connection_does(server: Server) -> None:
    with contextlib.closing(Repeatedly(AdminAddress(url_of(server), "sesame"))) as asked:
        answers = [asked.fetch("/") for _ in range(10)]
    assert answers == [(200, b"Bearer sesame")] * 10
    assert server.connections == 2  # the first answer says what may be wrong, over one of its own


def test_one_that_was_closed_is_opened_again(server: Server) -> None:
    server.most = 2
    with contextlib.closing(Repeatedly(AdminAddress(url_of(server), None))) as asked:
        assert [asked.fetch("/")[0] for _ in range(9)] == [200] * 9
    assert server.connections > 3


def test_where_nobody_listens_any_more_it_says_so() -> None:
    with Hub(runtime="inline").emitter(StdoutEmitter()).start(admin_addr="127.0.0.1:0") as pipeline:
        asked = Repeatedly(AdminAddress(f"http://{pipeline.admin_address}", None))
        assert [asked.fetch("/health/ready") for _ in range(3)] == [(200, b"ready\n")] * 3
    for _ in range(2):
        with pytest.raises(URLError, match="refused"):
            asked.fetch("/health/ready")


def test_a_unix_socket_is_asked_again(tmp_path: Path) -> None:
    hub = Hub(runtime="inline").emitter(StdoutEmitter())
    with hub.start(admin_addr=f"unix:{tmp_path}/admin") as pipeline:
        assert pipeline.admin_address is not None
        with contextlib.closing(Repeatedly(AdminAddress(pipeline.admin_address, None))) as asked:
            assert [asked.fetch("/health/live") for _ in range(3)] == [(200, b"live\n")] * 3
