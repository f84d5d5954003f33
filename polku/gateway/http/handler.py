"""What aiohttp does with bytes that are no request: it answers in its own words. Here it does so in ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler

from polku.text import line

Refuse = Callable[[int, str], web.Response]
"""Make the answer to something that is no request, of a status and a sentence."""

_LINE_BYTES = 8190  # of the first line and of each field, as most servers have it
_HEADERS = 128
_EXCERPT = re.compile(r"b['\"]([^:'\"\\]{1,60})")
_REASON = 200  # characters


def handlers(server: web.Server, refuse: Refuse, **options: Any) -> Callable[[], RequestHandler]:
    """Return what makes the handler of each new connection."""

    def make() -> RequestHandler:
        return _Handler(
            server,
            refuse,
            loop=asyncio.get_running_loop(),
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_HEADERS,
            **options,
        )

    return make


class _Handler(RequestHandler):
    """Answer what cannot be read, or fails on the way to our handlers, in the form of all answers."""

    __slots__ = ("_refuse",)

    def __init__(self, server: web.Server, refuse: Refuse, **options: Any) -> None:
        super().__init__(server, **options)
        self._refuse = refuse

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer, and close the connection: where the next request begins is not known."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        response = self._refuse(*_explain(status, exc))
        response.force_close()
        return response


def _explain(status: int, error: BaseException | None) -> tuple[int, str]:
    if isinstance(error, LineTooLong):
        return 431, f"head: a line of it has more than {_LINE_BYTES} bytes; send shorter ones"
    if isinstance(error, BadHttpMessage):
        if "too many headers" in str(error).lower():
            return 431, f"head: it has more than {_HEADERS} fields; send fewer"
        return 400, f"head: it is not a valid HTTP/1.1 request ({_reason(str(error.message))}); see RFC 9112"
    return status, "the request failed before it was read; whether it took the events is unknown"


def _reason(message: str) -> str:
    """Return what aiohttp says, with the name of the field at fault: its value may be a secret."""
    what, _, excerpt = message.partition("\n")
    field = _EXCERPT.search(excerpt)
    return line(what.strip(" :.") + (f": {field[1].strip()!r}" if field else ""), _REASON)
