"""Why an HTTP request as a whole is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from polku.codes import Code
from polku.errors import InputError
from polku.gateway.http.answer import ack_json
from polku.v1.gateway_pb2 import Ack, AckError

if TYPE_CHECKING:
    from polku.gateway.intake import Intake


class RequestError(Exception):
    """Refuse a request with a status (RFC 9110), a code, a sentence, and headers that help to do better."""

    def __init__(
        self, status: int, code: Code, message: str, headers: Mapping[str, str] | None = None, *, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = {**(headers or {}), **({"Connection": "close"} if close else {})}


def refusal_bytes(status: str, code: Code, message: str, *fields: str) -> bytes:
    """Return an answer to what never becomes a request, in the form of all answers."""
    body = ack_json(Ack(errors=[AckError(code=code, message=message)]))
    head = [f"HTTP/1.1 {status}", "Server: polku", "Connection: close", "Content-Type: application/json", *fields]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


@contextlib.contextmanager
def counted(intake: Intake, way: str) -> Iterator[None]:
    """Count a request that is refused as a whole before any of it is read; who may not send is counted elsewhere."""
    try:
        yield
    except (InputError, RequestError) as error:
        if error.code is not Code.UNAUTHENTICATED:
            intake.count_refused(error.code, way, error.message)
        raise
