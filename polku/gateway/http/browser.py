"""Which pages of the web may send: a browser names the page's origin, and nobody else's pages are let in by default.

A page of a stranger can have its visitors' browsers post to a gateway that only their machine or network reaches.
Browsers send `Origin` with such requests (Fetch standard, section 3.2), or at least `Sec-Fetch-Site` (Fetch Metadata),
and pages cannot leave them out. A page whose name was made to lead to this machine after it was loaded (DNS rebinding)
is known by the `Host` of its requests.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from polku.codes import Code
from polku.gateway.http.refusal import RequestError
from polku.host import is_loopback
from polku.lazy import pattern
from polku.text import line

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_OTHERS = frozenset({"cross-site", "same-site"})
_FORWARDED = ("Forwarded", "X-Forwarded-For", "Via")  # by a proxy on this machine
_ADDRESS = pattern(r"[0-9.]+|\[[0-9A-Fa-f:.]+\]")
_ASKED = "Access-Control-Request-Method"
_METHODS = "GET, POST"
_HEADERS = (
    "Authorization, Content-Encoding, Content-Type, X-Polku-Source, X-Polku-Cluster, Traceparent, Tracestate, "
    "Ce-Id, Ce-Source, Ce-Type, Ce-Specversion, Ce-Time, Ce-Subject"
)
_REMEMBER_SECONDS = 600


class Pages:
    """Let in the pages of some origins (`https://app.example.org`), and what is no page."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)
        self._hosts = frozenset(map(_host, origins))

    def check(self, method: str, headers: Mapping[str, str], own_address: str) -> None:
        """Raise `RequestError` 403 for a request of a page that may not send.

        `own_address` is the address of this machine that the connection came to.
        """
        host = headers.get("Host", "")
        if is_loopback(own_address) and _is_of_a_browser(headers) and not self._is_local(host):
            reason = f"Host: {line(host, 100)!r} is no name of this machine"
            raise _refused(f"{reason}; let browsers ask for localhost or 127.0.0.1")
        if method in _SAFE:
            return
        origin = headers.get("Origin", "")
        if origin and origin not in self._origins:
            fix = f"allow it with Hub().security(origins=[{line(origin, 100)!r}])"
            raise _refused(f"Origin: pages of {line(origin, 100)!r} may not send; {fix}")
        if not origin and headers.get("Sec-Fetch-Site", "") in _OF_OTHERS:
            raise _refused("Sec-Fetch-Site: pages of other sites may not send without their Origin")

    def answer(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of an answer that let an allowed page read it (CORS), and learn what it may send."""
        origin = headers.get("Origin", "")
        if origin not in self._origins:
            return {}
        found = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if _ASKED in headers:
            found |= {
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": str(_REMEMBER_SECONDS),
            }
        return found

    def _is_local(self, host: str) -> bool:
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if not name or _ADDRESS.fullmatch(name) or host in self._hosts:
            return True
        name = name.lower().rstrip(".")
        return name == "localhost" or name.endswith(".localhost")


def _is_of_a_browser(headers: Mapping[str, str]) -> bool:
    """Return whether a browser seems to ask, and not by a proxy: programs may use whatever name they know."""
    if any(name in headers for name in _FORWARDED):
        return False
    return "Origin" in headers or "Sec-Fetch-Site" in headers or headers.get("User-Agent", "").startswith("Mozilla/")


def _refused(reason: str) -> RequestError:
    return RequestError(403, Code.PERMISSION_DENIED, reason)


def _host(origin: str) -> str:
    from urllib.parse import urlsplit  # for who lets pages in

    return urlsplit(origin).netloc
