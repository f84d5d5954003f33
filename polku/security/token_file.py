"""The file of principals: their tokens, the names in their certificates, and their rights.

```toml
[agents]                            # a principal; its name is in messages, logs and the stamp on events
sources = ["agent-*"]               # rights: see `Rights`
[[agents.tokens]]                   # one or several, so that a new one can be used before the old one ends
hash = "sha256:…"                   # of the token, which is written nowhere
not_after = 2027-03-01              # UTC; for ever without it

[collector]
certificates = ["spiffe://example.org/collector/*"]
uids = [1000]                       # users of this machine, over a Unix socket

[issuers."https://login.example.org"]  # of JSON Web Tokens
audience = "polku"
jwks = "https://login.example.org/keys"

[pods]
jwt = [{ issuer = "https://login.example.org", subjects = ["system:serviceaccount:prod:*"] }]
```

`polku token new` makes tokens, and prints what belongs into the file.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import hashlib
import hmac
import secrets
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from polku.errors import PlanError
from polku.security.jwt_keys import Issuer, issuer_of
from polku.security.principal import Principal, Subjects, Token, check_name
from polku.security.rights import NAMES, Patterns, Rights

_HASH = "sha256:"
_PREFIX = "polku_"  # by which scanners for secrets find a token that was published
_SECRET_BYTES = 32


class Principals:
    """The principals of one file, found by what a client shows."""

    def __init__(self, principals: Iterable[Principal], issuers: Mapping[str, Issuer] | None = None) -> None:
        self.issuers = dict(issuers or {})
        self.by_name = {principal.name: principal for principal in principals}
        self._tokens = {
            token.digest: (token, principal) for principal in self.by_name.values() for token in principal.tokens
        }
        self._certificates = [
            (Patterns(principal.certificates), principal)
            for principal in self.by_name.values()
            if principal.certificates
        ]

        self._subjects = [
            (subjects.issuer, Patterns(subjects.patterns), principal)
            for principal in self.by_name.values()
            for subjects in principal.jwt
        ]

        self._uids = {uid: principal for principal in self.by_name.values() for uid in principal.uids}

    @property
    def token_ends(self) -> list[tuple[datetime, str]]:
        """When each principal whose tokens all have an end is left without one, and its name; the first one first."""
        return sorted((end, one.name) for one in self.by_name.values() if (end := one.token_end) is not None)

    @property
    def has_certificates(self) -> bool:
        """Whether a certificate can tell who a client is."""
        return bool(self._certificates)

    def by_token(self, token: str) -> tuple[Token, Principal] | None:
        """Return whose token this is, valid or not.

        The time that it takes tells nothing of the tokens and does not grow with their number: their digests are found
        by a hash with a key of this process, and compared in constant time.
        """
        digest = token_digest(token)
        found = self._tokens.get(digest)
        return found if found is not None and hmac.compare_digest(found[0].digest, digest) else None

    def by_certificate(self, names: Sequence[str]) -> Principal | None:
        """Return whose certificate has these names: of the first that fits, the first principal in the file."""
        for name in names:
            for patterns, principal in self._certificates:
                if patterns.fit(name):
                    return principal
        return None

    def by_uid(self, uid: int) -> Principal | None:
        """Return the principal whose clients run as this user."""
        return self._uids.get(uid)

    def by_subject(self, issuer: str, subject: str) -> Principal | None:
        """Return the first principal in the file whose JSON Web Tokens are of this issuer and subject."""
        for name, patterns, principal in self._subjects:
            if name == issuer and patterns.fit(subject):
                return principal
        return None


def parse(text: str) -> Principals:
    """Read the text of a token file; raises `PlanError` naming the principal, the field and the fix."""
    try:
        tables = tomllib.loads(text)
    except ValueError as error:  # `TOMLDecodeError`, or that of a number with thousands of digits
        raise PlanError(f"is no TOML ({error})", where="tokens") from None
    except RecursionError:
        raise PlanError("is no TOML of principals (it is nested too deeply)", where="tokens") from None
    issuers = _issuers(tables.pop("issuers", {}))
    principals = [_principal(name, table) for name, table in tables.items()]
    owners: dict[bytes | int, str] = {}
    for principal in principals:
        for uid in principal.uids:
            if other := owners.get(uid):
                raise PlanError(f"[{principal.name}] has uid {uid}, which [{other}] has too", where="tokens")
            owners[uid] = principal.name
        for token in principal.tokens:
            if other := owners.get(token.digest):
                reason = f"[{principal.name}] has a token that [{other}] has too; make a new one"
                raise PlanError(reason, where="tokens")
            owners[token.digest] = principal.name
        for subjects in principal.jwt:
            if subjects.issuer not in issuers:
                fix = f'write [issuers."{subjects.issuer}"] with its `audience` and `jwks`'
                raise PlanError(
                    f"[{principal.name}] jwt: issuer={subjects.issuer!r} is not there; {fix}", where="tokens"
                )
    return Principals(principals, issuers)


def token_digest(token: str) -> bytes:
    """Return what the file keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def new_token() -> str:
    """Return a new token with 256 random bits: no salt and no slow hash make it harder to guess."""
    return _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode().rstrip("=")


def file_lines(name: str, token: str, rights: Mapping[str, object], not_after: date | None) -> str:
    """Return the lines for a token: with rights, those of a new principal; without, one more token of its own."""
    check_name(name)
    Rights.from_fields(rights)
    key = name if all(part.isalnum() or part in "_-" for part in name) and name.isascii() else f'"{name}"'
    lines = [f"[{key}]", *(f"{right} = {_toml(value)}" for right, value in rights.items())] if rights else []
    lines += [f"[[{key}.tokens]]", f'hash = "{_HASH}{token_digest(token).hex()}"']
    if not_after is not None:
        lines.append(f"not_after = {not_after.isoformat()}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def _principal(name: str, table: object) -> Principal:
    check_name(name)
    if not isinstance(table, dict):
        raise PlanError(f"{name}={table!r}: is no principal; write [{name}] and its fields below it", where="tokens")
    known = ("tokens", "certificates", "jwt", "uids", *NAMES)
    for field in table:
        if field not in known:
            close = difflib.get_close_matches(field, known, 1)
            fix = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise PlanError(f"[{name}] {field}: is not known; {fix}", where="tokens")
    tokens = table.get("tokens", [])
    if not isinstance(tokens, list):
        raise PlanError(f"[{name}] tokens: must be tables; write [[{name}.tokens]]", where="tokens")
    try:
        rights = Rights.from_fields({key: value for key, value in table.items() if key in NAMES})
    except PlanError as error:
        raise PlanError(f"[{name}] {error.message}", where="tokens") from None
    certificates = table.get("certificates", [])
    if not isinstance(certificates, list) or not all(isinstance(item, str) and item for item in certificates):
        raise PlanError(f"[{name}] certificates={certificates!r} must be a list of patterns", where="tokens")
    found = tuple(_token(name, token) for token in tokens)
    return Principal(
        name, rights, found, tuple(certificates), _subjects(name, table.get("jwt", [])), _uids(name, table)
    )


def _uids(name: str, table: Mapping[str, object]) -> tuple[int, ...]:
    uids = table.get("uids", [])
    if not isinstance(uids, list) or not all(type(uid) is int and uid >= 0 for uid in uids):
        raise PlanError(f"[{name}] uids={uids!r} must be a list of numbers, as `id -u` prints", where="tokens")
    return tuple(uids)


def _issuers(tables: object) -> dict[str, Issuer]:
    if not isinstance(tables, dict):
        raise PlanError('issuers: is no table; write [issuers."https://login.example.org"]', where="tokens")
    return {name: issuer_of(name, table) for name, table in tables.items()}


def _subjects(name: str, items: object) -> tuple[Subjects, ...]:
    fix = 'must be a list of { issuer = "https://…", subjects = ["…"] }'
    if not isinstance(items, list):
        raise PlanError(f"[{name}] jwt={items!r} {fix}", where="tokens")
    found = []
    for item in items:
        patterns = item.get("subjects") if isinstance(item, dict) and set(item) == {"issuer", "subjects"} else None
        if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) and one for one in patterns):
            raise PlanError(f"[{name}] jwt: {item!r} {fix}", where="tokens")
        found.append(Subjects(str(item["issuer"]), tuple(patterns)))
    return tuple(found)


def _token(name: str, table: Any) -> Token:
    if not isinstance(table, dict) or not set(table) <= {"hash", "not_after"}:
        raise PlanError(f"[[{name}.tokens]] has `hash` and `not_after`, and nothing else", where="tokens")
    given = table.get("hash")
    try:
        digest = bytes.fromhex(str(given).removeprefix(_HASH))
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size or not str(given).startswith(_HASH):
        fix = f"must be '{_HASH}' and 64 hexadecimal digits, as `polku token new {name}` prints"
        raise PlanError(f"[[{name}.tokens]] hash: {fix}", where="tokens")
    return Token(digest, _time(name, table.get("not_after")))


def _time(name: str, value: object) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        with contextlib.suppress(OverflowError):  # of year 1, or 9999
            return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)
        raise PlanError(f"[[{name}.tokens]] not_after={value} is no time of UTC", where="tokens")
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    fix = "must be a date such as 2027-03-01, or a time such as 2027-03-01T12:00:00Z"
    raise PlanError(f"[[{name}.tokens]] not_after={value!r} {fix}", where="tokens")
