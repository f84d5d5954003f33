"""Webhooks that their sender has signed: the signature is checked before anything is read."""

from __future__ import annotations

import asyncio
import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from polku import checks
from polku.clock import Clock
from polku.codes import Code
from polku.contracts import IngestContext, Ingestor, Records
from polku.errors import InputError
from polku.hooks import call_hook, start_hook
from polku.ingest.inherited import is_of_ingest
from polku.security.secret import Secret, reveal
from polku.security.signatures import GITHUB_SIGNATURE, SLACK_SIGNATURE, SLACK_TIME, STRIPE_SIGNATURE, Style, digest

_IN_A_THREAD = 64 * 1024  # bytes and more

Ingest: TypeAlias = "Callable[[bytes, IngestContext], Records | Awaitable[Records]]"
Keys: TypeAlias = "str | Secret | Sequence[str | Secret]"


@dataclass(frozen=True, slots=True)
class HmacVerifier:
    """Hand bytes to an ingestor once their signature (HMAC-SHA256) is that of one of the secrets.

    `HmacVerifier.github(secret, ingestor)`, `.stripe` and `.slack` know the headers of these senders. A `secret` may be
    several, while one takes the place of another. Signatures with a time are good for `tolerance` seconds. A request
    for a source that has such an ingestor (`POST /v1/events?source=…`) needs no token: the signature says who sent it.
    """

    ingestor: object
    secrets: tuple[str | Secret, ...] = field(repr=False)
    style: Style = Style.GITHUB
    tolerance: float = 300.0

    def __post_init__(self) -> None:
        if not self.secrets or not all(secret and isinstance(secret, (str, Secret)) for secret in self.secrets):
            raise checks.fault("HmacVerifier", "secrets", "…", "must be one secret or several, none of them empty")
        checks.positive("HmacVerifier", "tolerance", self.tolerance)

    @classmethod
    def github(cls, secret: Keys, ingestor: object) -> HmacVerifier:
        """Check `X-Hub-Signature-256`, as GitHub and those who follow it send it."""
        return cls(ingestor, _several(secret))

    @classmethod
    def stripe(cls, secret: Keys, ingestor: object, *, tolerance: float = 300.0) -> HmacVerifier:
        """Check `Stripe-Signature`, with its time."""
        return cls(ingestor, _several(secret), Style.STRIPE, tolerance)

    @classmethod
    def slack(cls, secret: Keys, ingestor: object, *, tolerance: float = 300.0) -> HmacVerifier:
        """Check `X-Slack-Signature`, with `X-Slack-Request-Timestamp`."""
        return cls(ingestor, _several(secret), Style.SLACK, tolerance)

    def build(self, clock: Clock) -> Ingestor:
        """Make the running ingestor."""
        from polku.ingest.adapt import as_ingestor

        return _Verifying(self, as_ingestor(self.ingestor, clock), clock)


class _Verifying:
    """Check, and hand on."""

    authenticates = True

    def __init__(self, config: HmacVerifier, inner: Ingestor, clock: Clock) -> None:
        self._config = config
        self._inner = inner
        self._clock = clock
        self.concurrency = getattr(inner, "concurrency", 1)
        self.takes_turns = is_of_ingest(inner, "takes_turns") and getattr(inner, "takes_turns", False)
        slices = getattr(inner, "ingest_in_slices", None)
        if slices is not None and is_of_ingest(inner, "ingest_in_slices"):
            self.ingest_in_slices = partial(self._verified, slices)

    async def start(self) -> None:
        """Start the inner ingestor."""
        await start_hook("the ingestor of signed requests", self._inner)

    async def close(self) -> None:
        """Close the inner ingestor."""
        await call_hook(self._inner, "close")

    def ingest(self, data: bytes, context: IngestContext) -> Records | Awaitable[Records]:
        """Return what the inner ingestor reads; raises `InputError`, code UNAUTHENTICATED."""
        return self._verified(self._inner.ingest, data, context)

    def _verified(self, ingest: Ingest, data: bytes, context: IngestContext) -> Records | Awaitable[Records]:
        when, signatures = self._given(context.headers)
        if len(data) > _IN_A_THREAD:
            return self._ingest_large(ingest, data, context, when, signatures)
        self._check(self._digests(data, when), signatures)
        return ingest(data, context)

    async def _ingest_large(
        self, ingest: Ingest, data: bytes, context: IngestContext, when: str, signatures: list[str]
    ) -> Records:
        """Leave the event loop to others meanwhile: 4 MiB take 10 ms on many machines, for each secret."""
        self._check(await asyncio.to_thread(self._digests, data, when), signatures)
        records = ingest(data, context)
        return await records if inspect.isawaitable(records) else records

    def _digests(self, data: bytes, when: str) -> list[str]:
        return [digest(self._config.style, reveal(secret), data, when) for secret in self._config.secrets]

    def _check(self, expected: list[str], signatures: list[str]) -> None:
        found = [hmac.compare_digest(good, given) for good in expected for given in signatures]  # whatever the first is
        if not any(found):
            raise _unauthenticated("is not that of this body; sign it with the secret of this source")

    def _given(self, headers: Mapping[str, str]) -> tuple[str, list[str]]:
        """Return the time that the sender has signed, and the signatures that it gives."""
        match self._config.style:
            case Style.GITHUB:
                given = _header(headers, GITHUB_SIGNATURE)
                return "", [_ascii(given.removeprefix("sha256="))]
            case Style.STRIPE:
                pairs = [part.strip().partition("=") for part in _header(headers, STRIPE_SIGNATURE).split(",")]
                when = next((value for name, _, value in pairs if name == "t"), "")
                self._check_time(when)
                return when, [_ascii(value) for name, _, value in pairs if name == "v1"]
            case Style.SLACK:
                given, when = _header(headers, SLACK_SIGNATURE), _header(headers, SLACK_TIME)
                self._check_time(when)
                return when, [_ascii(given.removeprefix("v0="))]

    def _check_time(self, text: str) -> None:
        if not text.isdecimal() or len(text) > 12:
            raise _unauthenticated("has no time; send Unix time in seconds")
        if abs(self._clock.time_ns() / 1e9 - int(text)) > self._config.tolerance:
            limit = f"{self._config.tolerance:g} s"
            raise _unauthenticated(f"is more than {limit} away from the time here; sign it again, or set the clock")


def _several(secret: Keys) -> tuple[str | Secret, ...]:
    return (secret,) if isinstance(secret, (str, Secret)) else tuple(secret)


def _header(headers: Mapping[str, str], name: str) -> str:
    name = name.lower()
    value = headers.get(name, "")
    if not value:
        raise InputError(Code.UNAUTHENTICATED, f"{name}: there is none; sign the request, and send it by HTTP")
    return value


def _ascii(text: str) -> str:
    return text if text.isascii() else ""


def _unauthenticated(text: str) -> InputError:
    return InputError(Code.UNAUTHENTICATED, f"signature: {text}")
