"""The admin address of a running pipeline, as the commands that look at it find and ask it."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from typing import Annotated, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from polku.cli.command import Option
from polku.cli.credentials import NOTHING, Credentials
from polku.errors import SettingError
from polku.monitoring.address import DEFAULT, OFF
from polku.monitoring.run_files import RunningPipeline, running
from polku.security.configuration import secret_of

SECONDS = 10.0
NOT_ADMIN = "this is the gateway's HTTP port, and not the admin address: `polku ps` lists both"
_GRPC = "this is the gateway's gRPC port, and not the admin address: `polku ps` lists both"
_NO_HTTP = "what listens there speaks no HTTP, so it is no admin address: `polku ps` lists those"
_ASKS = "it may ask for a certificate: give one that it knows with --certificate and --key"
_LAST_PORT = 65_535
_UNIX = "unix:"
_HTTPS = "https://"
_END = "-----END CERTIFICATE-----\n"
_TOKEN = "POLKU_ADMIN_TOKEN"
_ROOTS = "POLKU_ADMIN_ROOT_CERTIFICATES"

To = Annotated[
    str | None,
    Option(
        "--to",
        metavar="NAME|[HOST:]PORT|URL|unix:PATH",
        help="The pipeline, see `polku ps`, or its admin address; or POLKU_ADMIN_ADDR; else the only one that runs.",
    ),
]


class AdminAddress(NamedTuple):
    """Where to ask: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`; and the secret to send, if there is one.

    `certificate` is the path of the one that the server of an `https://` address must show. Without it that must have
    one for its name, from who is in the file `POLKU_ADMIN_ROOT_CERTIFICATES`, or trusted by this machine. `shown` has
    what the command was given, which counts first.
    """

    url: str
    secret: str | None
    certificate: str = ""
    shown: Credentials = NOTHING

    def fetch(self, path: str, *, seconds: float = SECONDS, method: str = "GET") -> tuple[int, bytes]:
        """Return the status, 200, 409 or 503, and the body of an answer; raises `OSError`.

        That is an `URLError` with what was said, where something else was.
        """
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        if self.url.startswith(_UNIX):
            return _fetch_unix(self.url.removeprefix(_UNIX).removeprefix("//"), path, headers, seconds, method)
        try:
            request = Request(f"{self.url}{path}", headers=headers, method=method)
            with self._opener().open(request, timeout=seconds) as response:
                return response.status, response.read()
        except HTTPError as error:
            return _checked(error.code, error.read())
        except (ssl.SSLError, ConnectionError) as error:
            reason = "it closes the connection" if isinstance(error, ConnectionError) else error.reason
            raise URLError(f"{reason}; {_ASKS}" if self.url.startswith(_HTTPS) else str(error)) from None
        except http.client.HTTPException:
            raise URLError(_NO_HTTP) from None

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is opened by its first request."""
        if self.url.startswith(_UNIX):
            return _UnixConnection(self.url.removeprefix(_UNIX).removeprefix("//"), SECONDS)
        place = urlsplit(self.url).netloc
        if not self.url.startswith(_HTTPS):
            return http.client.HTTPConnection(place, timeout=SECONDS)
        return http.client.HTTPSConnection(place, timeout=SECONDS, context=_context(self.certificate, self.shown))

    def _opener(self) -> OpenerDirector:
        """Return what asks directly: it is a machine of one's own."""
        direct = ProxyHandler({})
        if not self.url.startswith(_HTTPS):
            return build_opener(direct)
        return build_opener(direct, HTTPSHandler(context=_context(self.certificate, self.shown)))


class Repeatedly:
    """Ask an address again and again, over one connection for as long as that lasts: to open one costs the pipeline
    more than to answer.
    """

    def __init__(self, address: AdminAddress) -> None:
        self._address = address
        self._headers = {"Authorization": f"Bearer {address.secret}"} if address.secret else {}
        self._connection: http.client.HTTPConnection | None = None

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Do what `AdminAddress.fetch` does."""
        if self._connection is not None:
            try:
                self._connection.request("GET", path, headers=self._headers)
                response = self._connection.getresponse()
                return _checked(response.status, response.read())
            except (OSError, http.client.HTTPException):  # it was closed meanwhile, or what is wrong is said below
                self.close()
        answer = self._address.fetch(path)
        self._connection = self._address.connection()
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def find(to: str | None, shown: Credentials = NOTHING) -> AdminAddress:
    """Return the admin address that is named, or that of the only pipeline of this user here; raises `SettingError`."""
    address = _find(to)
    if not address.url.startswith(_HTTPS):
        shown.refuse_plain(f"https://{urlsplit(address.url).netloc or 'HOST:PORT'}")
    secret = address.secret if shown.token_file is None else shown.token(_TOKEN)
    return address._replace(secret=secret, shown=shown)


def _find(to: str | None) -> AdminAddress:
    given = to or os.environ.get("POLKU_ADMIN_ADDR")
    if given == OFF:
        given = None
    pipelines = [pipeline for pipeline in running() if pipeline.admin]
    if given is None:
        if len(pipelines) > 1:
            raise SettingError("--to", "", f"several pipelines run here; name one of {_names(pipelines)}")
        return address_of(pipelines[0]) if pipelines else AdminAddress(f"http://{DEFAULT}", _token())
    plain = given.removeprefix("http://").rstrip("/")
    asked = {given, plain}
    named = [one for one in pipelines if asked & {one.name, str(one.pid), *_addresses(one.admin)}]
    if not named and given.isdecimal() and int(given) <= _LAST_PORT:
        given = f"127.0.0.1:{given}"
        named = [pipeline for pipeline in pipelines if given in _addresses(pipeline.admin)]
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


def _addresses(admin: str) -> list[str]:
    """Return what an admin address is called on its own machine: several names where it is open on all interfaces."""
    host, _, port = admin.rpartition(":")
    heres = ("127.0.0.1", "localhost", "[::1]") if host in ("0.0.0.0", "[::]") else ()
    return [admin, *(f"{here}:{port}" for here in heres)]


def reason_of(error: Exception) -> str:
    """Return why nothing was answered."""
    return str(getattr(error, "reason", None) or error)


def _has_port(given: str) -> bool:
    return "://" in given or given.rpartition(":")[2].isdecimal()


def address_of(pipeline: RunningPipeline) -> AdminAddress:
    """Return where to ask a pipeline that runs here."""
    address = pipeline.admin
    url = address if address.startswith((_UNIX, _HTTPS)) else f"http://{address}"
    return AdminAddress(url, pipeline.key or _token(), pipeline.certificate)


def _context(certificate: str, shown: Credentials) -> ssl.SSLContext:
    """Return what a connection begins with: to a server of a known certificate, or of a name that it proves to have."""
    if shown.root_certificates is not None or not certificate:
        context = _with_roots("--root-certificates", shown.root_certificates)
    else:
        context = _pinned(certificate)
    shown.with_environment("POLKU_ADMIN").show(context)
    return context


def _with_roots(option: str, roots: str | None) -> ssl.SSLContext:
    if roots is None:
        option, roots = _ROOTS, os.environ.get(_ROOTS) or None
    try:
        return ssl.create_default_context(cafile=roots)
    except OSError as error:
        reason = error.strerror or error
        raise SettingError(option, roots or "", f"cannot be used ({reason}); name a PEM file") from None


def _pinned(certificate: str) -> ssl.SSLContext:
    """Return what trusts the server of one certificate alone, whose file a pipeline of this user has named."""
    try:
        with open(certificate, encoding="ascii", errors="replace") as file:
            own = file.read().partition(_END)
    except OSError as error:
        raise URLError(f"the pipeline's certificate {certificate} cannot be read: {error.strerror}") from None
    context = ssl.create_default_context(cadata="".join(own[:2]))
    context.check_hostname = False  # it is this one, whatever name it is reached by
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _names(pipelines: list[RunningPipeline]) -> str:
    return ", ".join(f"{pipeline.admin} ({pipeline.name})" for pipeline in pipelines)


def _token() -> str | None:
    return secret_of(os.environ, _TOKEN)


def _checked(status: int, body: bytes) -> tuple[int, bytes]:
    if status not in (200, 409, 503):
        for known, text in ((b"POST /v1/events", NOT_ADMIN), (b"this port speaks gRPC", _GRPC)):
            if known in body:
                raise URLError(text)
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
    except http.client.HTTPException:
        raise URLError(_NO_HTTP) from None
    finally:
        connection.close()
