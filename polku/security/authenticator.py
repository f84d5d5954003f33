"""Find out who a client is, by the file of principals as it is now.

A file that changes, or a link to it that does, is read again within two seconds; where the new one cannot be used, the
last good one stays. Who a token belongs to is looked up once for a header value, and again after a change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from polku.codes import Code
from polku.errors import InputError, PlanError, SettingError
from polku.security.account import Account
from polku.security.failures import Failures
from polku.security.file_identity import file_identity
from polku.security.jwt_keys import Claims, IssuerKeys
from polku.security.principal import Principal
from polku.security.rights import Rights
from polku.security.token_file import Principals, parse

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0
_KNOWN = 1_000  # header values
_NEVER = float("inf")
_WARN_BEFORE, _WARN_EVERY = timedelta(days=14), timedelta(days=1)
_NAMED = 5  # in one line of the log
_DOTS = 2  # of a JSON Web Token


class Authenticated(NamedTuple):
    """Who a client is, until its token ends or the file changes."""

    account: Account
    version: int
    until: float = _NEVER


class Authenticator:
    """Know the principals of one file.

    Events get the metadata `stamp` with the principal's name, where there is one. Raises `SettingError` naming the file
    and the fix where it cannot be used at the start.
    """

    def __init__(
        self,
        path: str,
        *,
        stamp: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.failures = Failures()
        self._stamp = stamp
        self._clock = clock
        self._version = 0
        self._known: OrderedDict[object, Authenticated] = OrderedDict()
        self._accounts: dict[str, Account] = {}
        self._identity = self._rejected = self._seen = file_identity(path)
        self._principals = load(path)
        self._keys = IssuerKeys()
        self._keys.refresh(issuer for issuer in self._principals.issuers.values() if issuer.is_local)
        self._file_fault = ""
        self._warned: datetime | None = None

    @property
    def token_ends_at(self) -> float:
        """The Unix time from which on a principal has no token that is valid; 0 where all have one without an end."""
        ends = self._principals.token_ends
        return ends[0][0].timestamp() if ends else 0.0

    @property
    def fault(self) -> str:
        """What is wrong with the file or the keys of an issuer, which stay as they were; empty where nothing is."""
        return "; ".join(filter(None, (self._file_fault, self._keys.fault)))

    def identify(self, authorization: str, names: Sequence[str] = (), uid: int | None = None) -> Authenticated:
        """Return who sends this `authorization` (a bearer token), or shows a certificate with these names.

        Over a Unix socket it is the user `uid`. A token that is sent counts, whatever else there is. Raises
        `InputError`, code UNAUTHENTICATED.
        """
        key: object = authorization or (tuple(names) if uid is None else uid)
        known = self._known.get(key)
        if known is not None and self.is_valid(known):
            return known
        version = self._version  # read first: the thread that reads the file changes the principals before it
        until, account = self._by_token(authorization) if authorization else self._by_peer(names, uid)
        identity = Authenticated(account, version, until)
        if len(self._known) >= _KNOWN:
            self._known.popitem(last=False)
        self._known[key] = identity
        return identity

    def is_valid(self, identity: Authenticated) -> bool:
        """Return whether somebody still is who they were."""
        return identity.version == self._version and (identity.until == _NEVER or self._clock() < identity.until)

    def account_of(self, name: str) -> Account:
        """Return the account of who proves by other means to be this principal, which need not be in the file."""
        return self._account(self._principals.by_name.get(name) or Principal(name, Rights()))

    async def watch(self) -> None:
        """Look for a changed file, until cancelled. It may be on a slow disk: a thread reads it."""
        loop = asyncio.get_running_loop()
        while True:
            self._warn(datetime.fromtimestamp(self._clock(), UTC))
            await loop.run_in_executor(None, self.refresh_keys)
            await asyncio.sleep(_LOOK_SECONDS)
            await loop.run_in_executor(None, self.look)

    def expiry(self, now: datetime) -> str:
        """Return which principals have no token beyond the next 14 days; empty where all have."""
        ends = [(end, name) for end, name in self._principals.token_ends if end - now <= _WARN_BEFORE]
        if not ends:
            return ""
        found = [f"{name!r} {'ended' if end <= now else 'ends'} on {end:%Y-%m-%d %H:%M} UTC" for end, name in ends]
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        fix = "append a new one to the file: polku token new NAME"
        return f"the last token of {', of '.join(found[:_NAMED])}{more}; {fix}"

    def _warn(self, now: datetime) -> None:
        """Write of tokens that end to the log, once a day."""
        if self._warned is not None and now - self._warned < _WARN_EVERY:
            return
        self._warned = now
        if text := self.expiry(now):
            _LOG.warning("tokens: %s: %s", self.path, text)

    def refresh_keys(self) -> None:
        """Read the keys of issuers that are due; blocks."""
        self._keys.refresh(self._principals.issuers.values())

    def look(self) -> None:
        """Read the file where it has changed since the last look; a bad one is told of once it stays as it is.

        One that was written in place is read when it has not changed between two looks, one in its place at once.
        """
        identity = file_identity(self.path)
        if identity == self._identity:
            return
        seen, self._seen = self._seen, identity
        if identity != seen and _is_same_file(identity, self._identity):
            return  # it may still be being written: half a file, or an empty one, is a valid one
        try:
            principals = load(self.path)
        except SettingError as error:
            if identity == self._rejected:
                self._identity = identity
                self._file_fault = f"the last good principals stay: {error}"
                _LOG.error("tokens: %s", self._file_fault)
            self._rejected = identity
            return
        self._principals, self._file_fault = principals, ""
        self._version += 1
        self._identity = self._rejected = identity
        self._warned = None
        _LOG.info("tokens: %s was read again", self.path)

    def _by_token(self, authorization: str) -> tuple[float, Account]:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthenticated("is no bearer token; send 'Bearer TOKEN'")
        found = self._principals.by_token(token.strip())
        if found is None and self._principals.issuers and token.count(".") == _DOTS:
            return self._by_claims(self._keys.check(token.strip(), self._principals.issuers))
        if found is None:
            raise _unauthenticated("the token is not known (any more); ask for a new one")
        known, principal = found
        until = _NEVER if known.not_after is None else known.not_after.timestamp()
        if self._clock() >= until:
            when = f"{known.not_after:%Y-%m-%d %H:%M} UTC"
            raise _unauthenticated(f"the token of principal {principal.name!r} ended on {when}; ask for a new one")
        return until, self._account(principal)

    def _by_claims(self, claims: Claims) -> tuple[float, Account]:
        principal = self._principals.by_subject(claims.issuer, claims.subject)
        if principal is None:
            reason = f"no principal has the subject {claims.subject[:100]!r} of {claims.issuer}"
            raise _unauthenticated(f"{reason}; have it added to the `jwt` of one")
        return claims.until, self._account(principal)

    def _by_peer(self, names: Sequence[str], uid: int | None) -> tuple[float, Account]:
        principal = self._principals.by_certificate(names) if uid is None else self._principals.by_uid(uid)
        if principal is None and uid is not None:
            raise _unauthenticated(f"there is none, and no principal has uid {uid}; send 'Bearer TOKEN'")
        if principal is None:
            if names and self._principals.has_certificates:
                reason = f"there is none, and no principal has a certificate of {names[0][:100]!r}"
                raise _unauthenticated(f"{reason}; send 'Bearer TOKEN', or have the name added to its `certificates`")
            raise _unauthenticated("there is none; send 'Bearer TOKEN'")
        return _NEVER, self._account(principal)

    def _account(self, principal: Principal) -> Account:
        account = self._accounts.get(principal.name)
        if account is None:
            account = Account(principal.name, principal.rights, stamp=self._stamp)
            self._accounts[principal.name] = account
        account.change(principal.rights)
        return account


def load(path: str) -> Principals:
    """Read a token file; raises `SettingError`."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise SettingError("tokens", path, "is not UTF-8; write it as TOML, as docs/security.md shows") from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); name a file that this user may read"
        raise SettingError("tokens", path, reason) from None
    try:
        return parse(text)
    except PlanError as error:
        raise SettingError("tokens", path, error.message) from None


def _unauthenticated(text: str) -> InputError:
    return InputError(Code.UNAUTHENTICATED, f"authorization: {text}")


def _is_same_file(one: object, other: object) -> bool:
    return isinstance(one, tuple) and isinstance(other, tuple) and one[:2] == other[:2]
