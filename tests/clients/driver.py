"""A gRPC client in another language, told line by line what to call.

A line that it reads is one of these; hexadecimal text begins with a `-`, so that none is empty:

    unary  PATH MILLISECONDS GZIP METADATA -MESSAGE           one call: its deadline, 1 where it is compressed,
    stream PATH MILLISECONDS GZIP METADATA -MESSAGE,-MESSAGE…   and the bytes of metadata that go with it
    cancel PATH -MESSAGE                                      a stream that is cancelled after its first answer
    many   PATH IN_FLIGHT -MESSAGE,-MESSAGE…                  unary calls, so many at a time

It answers `many` with the calls' status codes, anything else with `CODE -ANSWER,-ANSWER… -DETAILS`. Where
`KEEPALIVE_MS` is set, it pings the server so often. The one in Go speaks TLS with the files in `TLS_ROOTS`,
`TLS_CERTIFICATE` and `TLS_KEY`, and sends the `TOKEN`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import NamedTuple


class Answer(NamedTuple):
    """What became of one call."""

    code: int
    messages: list[bytes]
    details: str


class Driver:
    """One client program, until the end of a `with` block."""

    def __init__(
        self, command: Sequence[str], address: str, keepalive_ms: int = 0, variables: Mapping[str, str] = {}
    ) -> None:
        environment = {**os.environ, **variables}
        if keepalive_ms:
            environment["KEEPALIVE_MS"] = f"{keepalive_ms}"
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([*command, address], env=environment, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Driver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate(timeout=20)

    def unary(self, path: str, message: bytes, *, seconds: float = 20, gzip: bool = False, metadata: int = 0) -> Answer:
        """Make one unary call."""
        return self._call("unary", path, [message], seconds, gzip, metadata)

    def stream(
        self, path: str, messages: Sequence[bytes], *, seconds: float = 20, gzip: bool = False, metadata: int = 0
    ) -> Answer:
        """Send messages on one stream, and read its answers to the end."""
        return self._call("stream", path, messages, seconds, gzip, metadata)

    def cancel(self, path: str, message: bytes) -> Answer:
        """Cancel a stream after its first answer."""
        return _answer(self._ask(f"cancel {path} {_hex([message])}"))

    def many(self, path: str, messages: Sequence[bytes], in_flight: int) -> list[int]:
        """Make unary calls, so many at a time; return their status codes."""
        return [int(code) for code in self._ask(f"many {path} {in_flight} {_hex(messages)}").split(",")]

    def _call(
        self, what: str, path: str, messages: Sequence[bytes], seconds: float, gzip: bool, metadata: int
    ) -> Answer:
        line = f"{what} {path} {round(seconds * 1000)} {int(gzip)} {metadata} {_hex(messages)}"
        return _answer(self._ask(line))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the client has ended with {self._process.wait(30)}"
        return answer.rstrip("\n")


def _answer(line: str) -> Answer:
    code, messages, details = line.split(" ")
    answers = [bytes.fromhex(text[1:]) for text in messages.split(",") if text]
    return Answer(int(code), answers, bytes.fromhex(details[1:]).decode())


def _hex(messages: Sequence[bytes]) -> str:
    return ",".join("-" + message.hex() for message in messages)
