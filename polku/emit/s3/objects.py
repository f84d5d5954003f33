"""Put whole objects into a store, and say what an error means for what comes next."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from polku.disk import sync_file
from polku.emit.s3.tls_forwarder import TlsForwarder
from polku.errors import EmitError, MisconfiguredError, PlanError, RejectedError, RetryableError
from polku.host import is_loopback
from polku.rpc.proxy import proxy_for
from polku.security.client_tls import ClientTls, check_client_tls

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl", "file")

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_LATER = {"RequestTimeout", "NoSuchUpload", "OperationAborted", "SlowDown", "InternalError", "ServiceUnavailable"}
_BROKEN = {"BadDigest", "IncompleteBody", "InvalidPart"}  # what arrived is not what was sent
_NEVER = {"EntityTooLarge", "KeyTooLongError"}
# Where a store looks for the credentials of the machine that it runs on, when it was given none.
_NOWHERE = ("169.254.169.254", "/latest/api/token", "/latest/meta-data", "metadata.google.internal", "redential")
_AT_ONCE = 12  # parts of one object that are sent side by side
_TRIES_AGAIN = 2
_CLOSE_SECONDS = 5.0
_HTTPS = "https://"
_HOSTS = {"s3": "s3.amazonaws.com", "gs": "storage.googleapis.com", "az": "blob.core.windows.net"}
# Where credentials of the machine come from, which is not the store.
_DIRECT = "169.254.169.254,169.254.170.2,169.254.170.23,.amazonaws.com"
_NO_PROXY = "http://127.0.0.1:9"
_FULL = ("No space left", "os error 28", "quota")


class Objects:
    """A folder of an object store, opened at the first use.

    `put` returns when the object is complete; on the local file system, when it and its name are on disk. An upload
    continues where nobody waits for it any more: cut off, it would leave its parts in the bucket, unseen and paid for.
    Whoever puts the same object again waits for it instead of beginning another.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, str],
        *,
        timeout: float,
        part_bytes: int,
        tls: ClientTls | None = None,
    ) -> None:
        self._url = url
        self._tls = tls
        self._forwarder: TlsForwarder | None = None
        self._opening = threading.Lock()
        self._options = dict(options)
        self._timeout = timeout
        self._part_bytes = part_bytes
        self._folder = unquote(urlsplit(url).path) if url.startswith("file:") else None
        self._store: ObjectStore | None = None
        self._is_on_disk = False
        self._uploads: dict[str, asyncio.Task[None]] = {}

    def seconds(self, size: int) -> float:
        """Return how long an object of a size may take at most, each of its requests with its tries."""
        rounds = 2 + math.ceil(size / self._part_bytes / _AT_ONCE)  # the beginning and the end of an upload are two
        return rounds * (1 + _TRIES_AGAIN) * self._timeout

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """Write an object, replacing what has its name; raises the `EmitError` that fits.

        The name must stand for the content: the same name again means the same bytes.
        """
        upload = self._uploads.get(key)
        if upload is None:
            upload = asyncio.get_running_loop().create_task(self._put(key, content, content_type))
            self._uploads[key] = upload
            upload.add_done_callback(partial(self._uploaded, key))
        await asyncio.shield(upload)

    def write(self, key: str, content: bytes) -> None:
        """Put an object from a thread, which is held up meanwhile; raises the `EmitError` that fits."""
        import obstore

        try:
            self._store = self._store or self._open()
            obstore.put(self._store, key, content, chunk_size=self._part_bytes, max_concurrency=_AT_ONCE)
            if self._folder is not None:
                self._sync(Path(self._folder), key)
        except Exception as error:
            raise explain(self._server(), error) from None

    def read(self, key: str) -> bytes:
        """Return an object to a thread; raises `RejectedError` where there is none, else the `EmitError` that fits."""
        import obstore
        from obstore.exceptions import NotFoundError

        try:
            self._store = self._store or self._open()
            return bytes(obstore.get(self._store, key).bytes())
        except Exception as error:
            if isinstance(error, (NotFoundError, FileNotFoundError)) and "NoSuchBucket" not in str(error):
                raise RejectedError(f"{self._url}: there is no object {key}") from None
            raise explain(self._server(), error) from None

    async def close(self) -> None:
        """Wait a few seconds for uploads that nobody waits for; what is not complete then is cut off."""
        uploads = list(self._uploads.values())
        if uploads:
            await asyncio.wait(uploads, timeout=_CLOSE_SECONDS)
        for upload in uploads:
            upload.cancel()
        self.release()

    def release(self) -> None:
        """Release the port for certificates, if there is one; the next use opens it again."""
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is not None:
            self._store = None
            forwarder.close()

    def _uploaded(self, key: str, upload: asyncio.Task[None]) -> None:
        del self._uploads[key]
        if not upload.cancelled():
            upload.exception()  # whoever waited for it has it; if nobody did, the object is put again

    async def _put(self, key: str, content: bytes, content_type: str) -> None:
        import obstore

        try:
            store = await self._opened()
            attributes = None if self._folder is not None else {"Content-Type": content_type}
            await obstore.put_async(
                store,
                key,
                content,
                attributes=attributes,
                chunk_size=self._part_bytes,
                max_concurrency=_AT_ONCE,
            )
            if self._folder is not None:
                await asyncio.to_thread(self._sync, Path(self._folder), key)
        except Exception as error:  # obstore's errors have no class in common with those of files
            raise explain(self._server(), error) from None

    def check(self) -> None:
        """Raise `PlanError` where the package is missing or an option is unknown."""
        where = f"S3Emitter(url={self._url!r})"
        unknown: type[Exception] = load(where).UnknownConfigurationKeyError
        if self._folder is not None:
            return  # a folder that cannot be made now may be there later
        try:
            self._store = self._open()
        except unknown as error:
            raise PlanError(f"options: {_first(error)}", where=where) from None
        except Exception:  # put says it again, with the reason, and holds the events
            self._store = None

    def _server(self) -> str:
        """Return the store as errors name it, with the proxy that leads there."""
        if self._folder is not None:
            return self._url
        address = urlsplit(self._endpoint or f"{_HTTPS}{_HOSTS.get(urlsplit(self._url).scheme, '')}")
        is_tls = address.scheme == "https"
        with contextlib.suppress(ValueError):
            proxy = proxy_for(address.hostname or "", address.port or (443 if is_tls else 80), tls=is_tls)
            return self._url if proxy is None else f"{self._url} (by {proxy})"
        return self._url

    @property
    def _endpoint(self) -> str:
        return self._options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or ""

    async def _opened(self) -> ObjectStore:
        if self._store is None:
            self._store = await asyncio.to_thread(self._open)
        return self._store

    def _sync(self, folder: Path, key: str) -> None:
        """Let an object and its whole name reach the disk; the path of the store itself, the first time."""
        sync_file(folder / key, upto=folder if self._is_on_disk else None)
        self._is_on_disk = True

    def _open(self) -> ObjectStore:
        from obstore.store import LocalStore, from_url

        if self._folder is not None:
            _make_private(self._folder)
            return LocalStore(self._folder, mkdir=True)
        endpoint = self._endpoint
        options: dict[str, str] = dict(self._options)
        through: dict[str, str] = {}
        if self._tls is not None:
            with self._opening:
                self._forwarder = self._forwarder or TlsForwarder(endpoint, self._tls)
            options["endpoint"] = endpoint = f"http://{endpoint.removeprefix(_HTTPS)}"
            through = {"proxy_url": self._forwarder.url, "proxy_excludes": _DIRECT}
        elif is_loopback(host := urlsplit(endpoint).hostname or ""):
            through = {"proxy_url": _NO_PROXY, "proxy_excludes": host}  # instead of what the environment names
        return from_url(  # type: ignore[call-overload, no-any-return]
            self._url,
            config=options or None,
            client_options={
                "timeout": timedelta(seconds=self._timeout),
                "connect_timeout": timedelta(seconds=min(self._timeout, 5.0)),
                "allow_http": endpoint.startswith("http://"),
                **through,
            },
            # Parts of an object are tried again here, twice; the object, for as long as it takes, by Resilience.
            retry_config={"max_retries": _TRIES_AGAIN, "retry_timeout": timedelta(seconds=self._timeout)},
        )


def check_tls(where: str, config: Any) -> None:
    """Make sure of what a store's client is to trust and show, and keep its roots as absolute path.

    Raises `PlanError`.
    """
    roots = check_client_tls(where, config.root_certificates, config.certificate)
    object.__setattr__(config, "root_certificates", roots)
    if roots is None and config.certificate is None:
        return
    if not str(config.options.get("endpoint", "")).startswith(_HTTPS):
        fix = "need the address of the store: options={'endpoint': 'https://host:port'}"
        raise PlanError(f"root_certificates and certificate {fix}", where=where)


def tls_of(config: Any) -> ClientTls | None:
    """Return what connections to a store begin with; None: what its library has."""
    if config.root_certificates is None and config.certificate is None:
        return None
    return ClientTls(config.root_certificates, config.certificate, protocols=["http/1.1"])


def _make_private(folder: str) -> None:
    """Make a folder for its user alone; one that is there keeps its permissions. The store says what cannot be."""
    folder = folder.rstrip("/")
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        os.mkdir(folder, 0o700)


def explain(where: str, error: Exception) -> EmitError:
    """Say what an error of a store means: mend something, try again, or never."""
    if isinstance(error, EmitError):
        return error
    text = str(error)
    found, answer = _CODE.search(text), _STATUS.search(text)
    code, status = found[1] if found else "", int(answer[1]) if answer else 0
    reason = f"{where}: {_first(error)}"
    if "TooSkewed" in code:
        return MisconfiguredError(f"{where}: clock skew ({code}): the clock of this machine is wrong; set it (NTP)")
    if code in _LATER | _BROKEN or status in (408, 409, 429) or status >= 500 or any(word in text for word in _FULL):
        return RetryableError(reason)
    if any(place in text for place in _NOWHERE):
        fix = "no credentials: set them in the environment (AWS_ACCESS_KEY_ID, …) or in options"
        return MisconfiguredError(f"{where}: {fix} ({_first(error)})")
    if code in _NEVER or "File name too long" in text:
        return RejectedError(reason)
    if status in (301, 307) or "redirect without LOCATION" in text:
        return MisconfiguredError(
            f"{where}: the bucket is elsewhere: set region, or endpoint, in options ({_first(error)})"
        )
    if 300 <= status < 500 or code or _is_configuration(error, text):
        return MisconfiguredError(reason)
    return RetryableError(reason)


def _is_configuration(error: Exception, text: str) -> bool:
    kinds = ("PermissionDeniedError", "UnauthenticatedError", "NotFoundError", "NotSupportedError", "InvalidPathError")
    if isinstance(error, (PermissionError, FileNotFoundError, NotADirectoryError, NotImplementedError)):
        return True
    local = ("Permission denied", "Read-only file system", "Not a directory", "canonicalize", "File exists")
    return type(error).__name__ in kinds or any(word in text for word in local)


def _first(error: Exception) -> str:
    """Return an error's text without what is for the library's authors, on one line."""
    text = " ".join(str(error).partition("\n\nDebug source")[0].split())
    return f"{text[:500]}…" if len(text) > 500 else text or type(error).__name__


def load(where: str) -> Any:
    """Import the package and return its exceptions; raises `PlanError` with the command that installs it."""
    try:
        import obstore.exceptions
    except ImportError:
        raise PlanError("needs obstore: pip install 'polku[s3]'", where=where) from None
    return obstore.exceptions
