"""The admin address: statistics, metrics, health and the live page of a pipeline, for those who run it.

It is open on the loopback interface unless somebody asks for more, and then only with a token. Web pages of strangers
cannot read it: a request whose `Host` is another name (DNS rebinding), or whose `Origin` is another page, is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from polku.aio.forks import let_go_in_forks
from polku.aio.tasks import TaskSet
from polku.errors import PolkuError, SettingError
from polku.gateway.addresses import why_no_socket
from polku.gateway.certificates import HTTP1, Certificates
from polku.gateway.listen import Listener, context_of, descriptors_of, listen
from polku.health import Health
from polku.host import is_loopback
from polku.monitoring.address import HTTPS, Admin
from polku.monitoring.http1 import LIMIT, Request, Response, Server, Stream
from polku.text import line, said, span

if TYPE_CHECKING:
    from polku.monitoring.event_routes import Events
    from polku.monitoring.live import Live
    from polku.monitoring.statistics import PartHealth, PipelineStatistics
    from polku.runtime.reloading import Reloader
    from polku.tap.redaction import Redaction

_LOG = logging.getLogger(__name__)
_TRIES = 50  # ports from the default one on
_JSON = "application/json"
_STUCK_SECONDS = 1.0  # without a turn of the pipeline's event loop, until health says so
_LOOK_AFTER_SECONDS = 1.0  # after the start, which is slower while modules are loaded
_DEAD_SECONDS = 10.0  # until it counts as stuck for good
_OPEN = ("/", "/health/live", "/health/ready")  # for everybody who can connect: a page without content, yes or no
_RELOAD = "/reload"
_CHANGES = ("/dead-letters/replay", "/dead-letters/drop")  # by POST
_PRIVATE = ("/tap", "/explain", "/dead-letters")  # what events contain: for who runs the pipeline, or has the token
_PATHS = ("/", "/events", "/statistics", "/metrics", "/health", "/health/live", "/health/ready", *_PRIVATE)
_INDEX = f"polku admin address: {' '.join(_PATHS)}\n"
_NO_KEY = b"events are shown to the user who runs the pipeline, by `polku tap`; others need POLKU_ADMIN_TOKEN\n"


class AdminServer:
    """Serve a pipeline's statistics, metrics, health and live page.

    `stuck` says for how long its event loop has not turned, `addresses` are those of its gateway, by protocol.
    Events, and changes, are only for who sends the token, or the `key`; a Unix socket is this user's anyway.
    """

    def __init__(
        self,
        admin: Admin,
        statistics: Callable[[], Awaitable[PipelineStatistics]],
        health: Callable[[], Awaitable[Health]],
        stuck: Callable[[], float],
        addresses: Mapping[str, str],
        *,
        events: Events,
        redaction: Redaction,
        key: str,
        reloader: Reloader | None = None,
    ) -> None:
        self._admin = admin
        self._statistics = statistics
        self._health = health
        self._stuck = stuck
        self._addresses = addresses
        self._live: Live | None = None
        self._bound = ""
        self._http = Server(self._answer, posts=[_RELOAD, *_CHANGES])
        self._reloader = reloader
        self._server: Listener | asyncio.Server | None = None
        self._tasks = TaskSet("admin address")
        self._events = events
        self._redaction = redaction
        self._owners = [text.encode() for text in (key, admin.token) if text]
        self._readers = [*self._owners, *([admin.read_token.encode()] if admin.read_token else [])]
        self._asks = bool(admin.token or admin.read_token)

    async def start(self) -> str | None:
        """Open the address and return it as bound; None where every port that was tried is taken.

        Raises `SettingError` where an address that was chosen cannot be had.
        """
        address = await self._open()
        if address is not None:
            self._bound = address
            asyncio.get_running_loop().call_later(_LOOK_AFTER_SECONDS, self._look)
        return address

    def _look(self) -> Live | None:
        """Look for the live page from now on: its modules take a while to load, and a pipeline starts without them."""
        if self._live is None and self._server is not None:
            from polku.monitoring.live import Live

            self._live = Live(self._statistics, self._blocked, self._addresses)
            self._live.start(self._bound)
        return self._live

    async def _open(self) -> str | None:
        address = self._admin.address
        if address.startswith("unix:"):
            path = address.removeprefix("unix:").removeprefix("//")
            try:
                self._server = await _start_unix(self._http, path)
            except OSError as error:
                raise SettingError("admin_addr", address, why_no_socket(address, error)) from None
            return address
        if self._admin.tls is not None:
            return await self._open_encrypted(Certificates(self._admin.tls))
        host, _, port = address.rpartition(":")
        for number in range(int(port), int(port) + (_TRIES if self._admin.searches else 1)):
            try:
                server = await asyncio.start_server(self._http.serve, host.strip("[]"), number, limit=LIMIT)
            except (OSError, OverflowError) as error:
                fault = str(getattr(error, "strerror", "") or error)
            else:
                self._server = server
                let_go_in_forks(server, descriptors_of)
                return f"{host}:{server.sockets[0].getsockname()[1]}"
        if not self._admin.searches:
            raise SettingError("admin_addr", address, f"cannot be opened ({fault}); is the port in use?")
        _LOG.warning("the admin address cannot be opened from %s on (%s); the pipeline runs without it", address, fault)
        return None

    async def _open_encrypted(self, certificates: Certificates) -> str:
        """Open a port that speaks TLS, with the certificate as its files are when a connection begins."""

        def connection() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=LIMIT), self._http.serve)

        tls = context_of(certificates, HTTP1)
        self._server, bound = await listen(connection, "admin_addr", self._admin.address, shared=False, tls=tls)
        self._tasks.keep_alive("certificates", certificates.watch)
        return f"{HTTPS}{bound}"

    async def close(self) -> None:
        """Close the port and the connections."""
        await self._tasks.close()
        server, self._server = self._server, None
        if server is not None:
            server.close()
            if self._live is not None:
                self._live.close()
            self._http.close()
            if self._admin.address.startswith("unix:"):
                with contextlib.suppress(OSError):
                    os.unlink(self._admin.address.removeprefix("unix:").removeprefix("//"))

    async def _answer(self, request: Request) -> Response | Stream:
        if not self._is_meant(request):
            return Response(403, b"Host or Origin is not of this address\n")
        if request.path in (*_PRIVATE, *_CHANGES, _RELOAD) and not self._may_see_events(request):
            return Response(401, _NO_KEY, headers={"WWW-Authenticate": "Bearer"})
        if request.path not in _OPEN and not self._is_authorized(request):
            return Response(401, b"send 'Authorization: Bearer TOKEN'\n", headers={"WWW-Authenticate": "Bearer"})
        match request.path:
            case "/":
                from polku.monitoring.page import page

                return Response(
                    200, page().body, "text/html; charset=utf-8", {"Content-Security-Policy": page().policy}
                )
            case "/events":
                if (live := self._look()) is None or live.is_full:
                    return Response(503, b"as many pages are open as may be; close one\n")
                return Stream(live.follow(may_see_events=self._may_see_events(request)), "text/event-stream")
            case "/health/live":
                return self._show_live()
            case "/health/ready":
                health = await self._judge()
                return Response(200, b"ready\n") if health.ready else Response(503, b"not ready\n")
            case "/health":
                return self._report(await self._judge(), strict="strict" in request.query.split("&"))
            case "/statistics":
                return await self._told(self._show_statistics())
            case "/metrics":
                return await self._told(self._show_metrics(request.headers.get("accept", "")))
            case "/reload" if request.method == "POST":
                return await self._reload()
            case path if path in _PRIVATE or (path in _CHANGES and request.method == "POST"):
                return await self._told(self._show_events(path, request.query))
            case _:
                return Response(404, _INDEX.encode())

    async def _reload(self) -> Response:
        """Have the pipeline load its file again; 409 where nothing was changed."""
        if self._reloader is None:
            refused = "nothing was changed: it was not started by `polku run FILE`; restart it"
            return Response(409, json.dumps({"lines": [], "refused": refused}).encode() + b"\n", _JSON)
        done = await asyncio.wrap_future(self._reloader.ask())
        body = json.dumps({"lines": list(done.lines), "refused": done.refused}).encode() + b"\n"
        return Response(409 if done.refused else 200, body, _JSON)

    def _show_live(self) -> Response:
        seconds = self._stuck()
        if seconds < _DEAD_SECONDS:
            return Response(200, b"live\n")
        return Response(503, f"the event loop has not turned for {span(seconds)}\n".encode())

    async def _judge(self) -> Health:
        """Return the health, with what holds up the pipeline's event loop where that does not turn."""
        health = await self._health()
        seconds = self._stuck()
        if seconds < _STUCK_SECONDS or "event_loop" in health.components:
            return health
        why = _blocked_by(await self._statistics(), seconds)
        parts = {**health.components, "event_loop": (False, why)}
        if seconds < _DEAD_SECONDS:
            return health._replace(healthy=False, components=parts)
        not_ready = "; ".join(text for text in (health.not_ready, f"the event loop {why}") if text)
        return Health(False, parts, health.processed, ready=False, not_ready=not_ready)

    def _blocked(self, tree: PipelineStatistics) -> dict[str, PartHealth]:
        """Return the pipeline's event loop as a part, where it does not turn."""
        seconds = self._stuck()
        if seconds < _STUCK_SECONDS or "event_loop" in tree.parts:
            return {}
        from polku.monitoring.remedies import Remedies
        from polku.monitoring.statistics import PartHealth

        why = _blocked_by(tree, seconds)
        pids = {name: process.pid for name, process in tree.processes.items()}
        advice, command = Remedies(tree.plan, pids).find("event_loop", why, "")
        part = PartHealth(healthy=False, message=why, seconds=seconds, advice=advice, command=command)
        return {"event_loop": part}

    async def _told(self, answer: Awaitable[Response]) -> Response:
        try:
            return await answer
        except PolkuError as error:  # the supervisor is away, or the pipeline has stopped
            return Response(503, f"{said(error)}\n".encode())

    async def _show_statistics(self) -> Response:
        tree = await self._statistics()
        from polku.monitoring.encoding import encoded

        return Response(200, encoded(tree) + b"\n", _JSON)

    async def _show_metrics(self, accept: str) -> Response:
        tree = await self._statistics()
        from polku.monitoring.exposition import write_metrics

        body, content_type = write_metrics(tree, accept)
        return Response(200, body, content_type)

    async def _show_events(self, path: str, query: str) -> Response:
        from polku.monitoring.event_routes import answer

        return await answer(path, query, self._events, self._redaction)

    def _report(self, health: Health, *, strict: bool) -> Response:
        parts = {name: {"healthy": healthy, "message": text} for name, (healthy, text) in health.components.items()}
        told = {"healthy": health.healthy, "ready": health.ready, "not_ready": health.not_ready, "components": parts}
        told |= {"warnings": dict(health.warnings), "next_attempt_seconds": dict(health.next_attempts)}
        well = health.healthy if strict else health.ready
        return Response(200 if well else 503, json.dumps(told).encode() + b"\n", _JSON)

    def _is_meant(self, request: Request) -> bool:
        """Return whether a request is for this address, and from no page of another one."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return False
        if self._asks or self._admin.address.startswith("unix:"):
            return True  # a page that does not know the token learns nothing; no page reaches a Unix socket
        return is_loopback(_name_of(host))

    def _is_authorized(self, request: Request) -> bool:
        return not self._asks or _sends_one_of(self._readers, request)

    def _may_see_events(self, request: Request) -> bool:
        if self._admin.address.startswith("unix:") and not self._asks:
            return True
        return _sends_one_of(self._owners, request)


def _sends_one_of(secrets: Sequence[bytes], request: Request) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    sent = given.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and any(hmac.compare_digest(sent, secret) for secret in secrets)


def _blocked_by(tree: PipelineStatistics, seconds: float) -> str:
    busy = [stage.busy_with for lane in tree.lanes for stage in lane.stages.values() if stage.busy_with]
    return line(f"has not turned for {span(seconds)}: {' and '.join(busy) or 'something'} blocks it")


async def _start_unix(http: Server, path: str) -> asyncio.Server:
    """Open a Unix socket that only this user reaches.

    Until it listens nobody can connect, so that its mode is set in time; the umask is that of all threads.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)  # of an earlier process
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, 0o600)
        server = await asyncio.start_unix_server(http.serve, sock=sock, limit=LIMIT)
    except BaseException:
        sock.close()
        raise
    let_go_in_forks(server, descriptors_of)
    return server


def _name_of(host: str) -> str:
    """Return the name in a `Host` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
