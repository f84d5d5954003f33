"""The admin address of a running pipeline, as the commands that look at it find and ask it."""

from __future__ import annotations

import http.client
import os
import socket
from typing import Annotated, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from polku.cli.command import Option
from polku.errors import SettingError
from polku.monitoring.address import DEFAULT, OFF
from polku.monitoring.run_files import RunningPipeline, running
from polku.security.configuration import secret_of

SECONDS = 10.0
_DIRECT = build_opener(ProxyHandler({}))  # it is a machine of one's own
_UNIX = "unix:"

To = Annotated[
    str | None,
    Option(
        "--to",
        metavar="NAME|HOST:PORT|URL|unix:PATH",
        help="The pipeline, see `polku ps`, or its admin address; or POLKU_ADMIN_ADDR; else the only one that runs.",
    ),
]


class AdminAddress(NamedTuple):
    """Where to ask, as `http://HOST:PORT` or `unix:PATH`, and the secret to send, if there is one."""

    url: str
    secret: str | None

    def fetch(self, path: str, *, seconds: float = SECONDS, method: str = "GET") -> tuple[int, bytes]:
        """Return the status, 200, 409 or 503, and the body of an answer; raises `OSError`.

        That is an `URLError` with what was said, where something else was.
        """
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        if self.url.startswith(_UNIX):
            return _fetch_unix(self.url.removeprefix(_UNIX).removeprefix("//"), path, headers, seconds, method)
        try:
            with _DIRECT.open(
                Request(f"{self.url}{path}", headers=headers, method=method), timeout=seconds
            ) as response:
                return response.status, response.read()
        except HTTPError as error:
            return _checked(error.code, error.read())


def find(to: str | None) -> AdminAddress:
    """Return the admin address that is named, or that of the only pipeline of this user here; raises `SettingError`."""
    given = to or os.environ.get("POLKU_ADMIN_ADDR")
    if given == OFF:
        given = None
    pipelines = [pipeline for pipeline in running() if pipeline.admin]
    if given is None:
        if len(pipelines) > 1:
            raise SettingError("--to", "", f"several pipelines run here; name one of {_names(pipelines)}")
        return address_of(pipelines[0]) if pipelines else AdminAddress(f"http://{DEFAULT}", _token())
    named = [pipeline for pipeline in pipelines if given in (pipeline.name, pipeline.admin, str(pipeline.pid))]
    if len(named) > 1:
        raise SettingError("--to", given, f"several pipelines are called so; name one of {_names(named)}")
    if named:
        return address_of(named[0])
    if given.startswith(_UNIX):
        return AdminAddress(given, _token())
    url = given if "://" in given else f"http://{given}"
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname or not _has_port(given):
        known = f"; here run {_names(pipelines)}" if pipelines else ""
        raise SettingError("--to", given, f"write HOST:PORT, http://HOST:PORT, unix:PATH or a pipeline's name{known}")
    return AdminAddress(url.rstrip("/"), _token())


def reason_of(error: Exception) -> str:
    """Return why nothing was answered."""
    return str(getattr(error, "reason", None) or error)


def _has_port(given: str) -> bool:
    return "://" in given or given.rpartition(":")[2].isdecimal()


def address_of(pipeline: RunningPipeline) -> AdminAddress:
    """Return where to ask a pipeline that runs here."""
    address = pipeline.admin
    return AdminAddress(address if address.startswith(_UNIX) else f"http://{address}", pipeline.key or _token())


def _names(pipelines: list[RunningPipeline]) -> str:
    return ", ".join(f"{pipeline.admin} ({pipeline.name})" for pipeline in pipelines)


def _token() -> str | None:
    return secret_of(os.environ, "POLKU_ADMIN_TOKEN")


def _checked(status: int, body: bytes) -> tuple[int, bytes]:
    if status not in (200, 409, 503):
        raise URLError(f"{status}: {body.decode('utf-8', 'replace').strip()}")
    return status, body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _fetch_unix(socket_path: str, path: str, headers: dict[str, str], seconds: float, method: str) -> tuple[int, bytes]:
    connection = _UnixConnection(socket_path, seconds)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return _checked(response.status, response.read())
    except http.client.HTTPException as error:
        raise URLError(str(error)) from None
    finally:
        connection.close()
