"""Payloads in an object store, named by what they are, and the metadata that refers to them."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from polku import checks
from polku.aio.threads import DaemonThreads
from polku.emit.s3.objects import SCHEMES, Objects
from polku.errors import MisconfiguredError, PlanError, RejectedError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.security.client_tls import ClientTls
from polku.text import said

CLAIM, CLAIM_BYTES = "claim", "claim_bytes"

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SIZE = re.compile(r"[0-9]{1,15}")
_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # before the store is asked again, in seconds
_PART_BYTES = 8 * 1024 * 1024


class Claim(NamedTuple):
    """The SHA-256 of a payload, in hexadecimal, and its size in bytes."""

    digest: str
    size: int

    @property
    def key(self) -> str:
        """The name of the object."""
        return f"{self.digest[:2]}/{self.digest}"


def claim_for(payload: bytes) -> Claim:
    """Return the claim of a payload."""
    return Claim(hashlib.sha256(payload).hexdigest(), len(payload))


def read_claim(event: Event) -> Claim | None:
    """Return the claim that an event carries, or None; raises `RejectedError` where it is none that can be read."""
    text = event.metadata.get(CLAIM)
    if text is None:
        return None
    digest, size = _DIGEST.fullmatch(text), _SIZE.fullmatch(event.metadata.get(CLAIM_BYTES, ""))
    if digest is None or size is None:
        raise RejectedError(f"metadata {CLAIM!r} is {checks.shorten(text)}, which refers to no payload")
    return Claim(digest[1], int(size[0]))


class Store:
    """The objects of a folder, asked for again for `retry_for` seconds while the store does not answer."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, str],
        *,
        timeout: float,
        retry_for: float,
        at_once: int = 4,
        tls: ClientTls | None = None,
    ) -> None:
        self._url = url
        self._threads = DaemonThreads("polku-claims", at_once)
        self._objects = Objects(url, options, timeout=timeout, part_bytes=_PART_BYTES, tls=tls)
        self._retry_for = retry_for
        self.retries = 0

    def start(self) -> None:
        """Raise `PlanError` where the package is missing or an option is unknown."""
        self._objects.check()

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown()
        self._objects.release()

    async def put(self, payload: bytes) -> Claim:
        """Return the claim of a payload once the store has it; raises `EmitError`."""
        claim = claim_for(payload)
        await self._insist(self._objects.write, claim.key, payload)
        return claim

    async def get(self, claim: Claim) -> bytes:
        """Return a payload; raises `RejectedError` where it is gone or another, any other `EmitError` after a time."""
        payload: bytes = await self._insist(self._objects.read, claim.key)
        if claim_for(payload) != claim:
            raise RejectedError(f"{self._url}: the object {claim.key} is not what was put there")
        return payload

    async def _insist(self, call: Callable[..., Any], *arguments: object) -> Any:
        loop = asyncio.get_running_loop()
        give_up, pause = loop.time() + self._retry_for, _PAUSE
        while True:
            try:
                return await self._threads.run(call, *arguments)
            except (RetryableError, MisconfiguredError) as error:
                if loop.time() + pause > give_up:
                    raise RejectedError(f"{said(error)} (tried for {self._retry_for:g} s)") from None
            self.retries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def check_store(where: str, url: object, options: object) -> dict[str, str]:
    """Return the options of a store; raises `PlanError`."""
    scheme = url.partition("://")[0] if isinstance(url, str) else ""
    if scheme not in SCHEMES:
        raise checks.fault(where, "url", url, "write s3://bucket/prefix, gs://…, az://… or file:///folder")
    if not isinstance(options, Mapping) or not all(isinstance(part, str) for pair in options.items() for part in pair):
        raise PlanError("options must map strings to strings", where=where)
    return dict(options)
