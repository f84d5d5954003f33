"""Why an HTTP request as a whole is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from polku.codes import Code
from polku.errors import InputError

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


@contextlib.contextmanager
def counted(intake: Intake, way: str) -> Iterator[None]:
    """Count a request that is refused as a whole before any of it is read; who may not send is counted elsewhere."""
    try:
        yield
    except (InputError, RequestError) as error:
        if error.code is not Code.UNAUTHENTICATED:
            intake.count_refused(error.code, way, error.message)
        raise
