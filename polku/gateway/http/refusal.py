"""Why an HTTP request as a whole is refused."""

from __future__ import annotations

from collections.abc import Mapping

from polku.codes import Code


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
