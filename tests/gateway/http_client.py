"""Clients of the HTTP door for tests: curl, and a bare socket for those that misbehave."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """A status, headers with lower-case names, and the decoded body."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def ids(self) -> list[str]:
        return list(self.body["event_ids"])

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in self.body["errors"]]

    @property
    def message(self) -> str:
        (error,) = self.body["errors"]
        return str(error["message"])


def curl(address: str, path: str, *options: str, body: bytes | None = None, type: str | None = None) -> Answer:
    """Send a request with curl; a `body` makes it a POST."""
    command = ["curl", "-sS", "-i", "--max-time", "30", *options]
    if type is not None:
        command += ["-H", f"Content-Type: {type}"]
    if body is not None:
        command += ["--data-binary", "@-"]
    command.append(f"http://{address}{path}")
    done = subprocess.run(command, input=body or b"", capture_output=True, check=False, timeout=240)
    assert done.stdout, done.stderr.decode()
    return parse(done.stdout)


def post(address: str, body: bytes, type: str = "application/json", *options: str, query: str = "") -> Answer:
    """POST a body to `/v1/events`."""
    return curl(address, f"/v1/events{query}", *options, body=body, type=type)


def parse(answer: bytes) -> Answer:
    """Read an answer as it came, skipping `100 Continue`."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return parse(body)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, json.loads(body) if body else None)


def connect(address: str) -> socket.socket:
    """Open a bare connection; it is the test's to misuse."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def read_to_end(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data
