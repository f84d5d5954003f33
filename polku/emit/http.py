"""What emitters that send over HTTP have in common: the way to a server, and its pauses."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from polku.clock import Clock
from polku.errors import MisconfiguredError
from polku.rpc.proxy import proxy_for
from polku.security.client_tls import ClientTls

if TYPE_CHECKING:
    import aiohttp

_LINE_BYTES = 64 * 1024  # of a header of an answer: a destination that has said more has taken the events all the same


def open_session(timeout: float) -> aiohttp.ClientSession:
    """Return a client for one server, whose requests may take `timeout` seconds each."""
    import aiohttp

    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout), max_line_size=_LINE_BYTES, max_field_size=_LINE_BYTES
    )


def reach(url: SplitResult, tls: ClientTls) -> tuple[str, dict[str, Any]]:
    """Return the server as errors name it, and the options of aiohttp that lead there: TLS, and a proxy.

    Raises `MisconfiguredError`, for what cannot be read now too.
    """
    server = f"{url.scheme}://{url.netloc.rpartition('@')[2]}"
    is_tls = url.scheme == "https"
    try:
        proxy = proxy_for(url.hostname or "", url.port or (443 if is_tls else 80), tls=is_tls)
        options: dict[str, Any] = {"ssl": tls.context()} if is_tls else {}
    except (ValueError, ConnectionError) as error:
        raise MisconfiguredError(f"{server}: {error}") from None
    if proxy is not None:
        server = f"{server} (by {proxy})"
        options["proxy"] = proxy.url
        options["proxy_headers" if is_tls else "headers"] = proxy.headers  # a plain request is the proxy's as well
    return server, options


def pause_of(retry_after: str | None, clock: Clock) -> float | None:
    """Return the seconds of a Retry-After header: it has them, or an HTTP date (RFC 9110, section 10.2.3)."""
    if not retry_after:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, when.replace(tzinfo=when.tzinfo or UTC).timestamp() - clock.time_ns() / 1e9)
