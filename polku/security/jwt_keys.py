"""JSON Web Tokens (RFC 7519): who issues them, by which keys they are signed, and what a good one says.

Keys come from a JWK set (RFC 7517), a file or a URL, which a thread of the port reads again. A request never waits for
that: the keys are those of the last time, and a token whose key is not among them is refused until they have come.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from polku.codes import Code
from polku.errors import InputError, PlanError
from polku.log import RepeatedLog
from polku.security.client_tls import ClientTls

_REPEATED = RepeatedLog(logging.getLogger(__name__))
# A secret that both sides know is no key here: who could check with it could sign with it.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_REFRESH_SECONDS = 600.0
_AGAIN_SECONDS = 10.0  # for keys that could not be had, or lack one that a token names
_FETCH_SECONDS = 5.0
_MOST_BYTES = 1 << 20
_LEEWAY_SECONDS = 30
_HTTPS = "https://"
_FIELDS = {"audience", "jwks", "algorithms", "root_certificates"}
_REQUIRED = ["exp", "iss", "sub", "aud"]


class Issuer(NamedTuple):
    """Whose tokens count, for which `audience`, and where the keys are: the path of a file, or an `https://` URL.

    `root_certificates` is the path of those that sign its server's certificate; empty: this machine's.
    """

    name: str
    audience: str
    jwks: str
    algorithms: tuple[str, ...] = ALGORITHMS
    root_certificates: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the keys are in a file."""
        return not self.jwks.startswith(_HTTPS)


class Claims(NamedTuple):
    """Who a token is of, and until when, in Unix seconds."""

    issuer: str
    subject: str
    until: float


class IssuerKeys:
    """Hold the keys of issuers, and check tokens by them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sets: dict[str, Any] = {}  # by place
        self._due: dict[str, float] = {}
        self.fault = ""

    def refresh(self, issuers: Iterable[Issuer]) -> None:
        """Read the keys that are due; blocks. What cannot be read stays as it was."""
        faults = []
        for issuer in issuers:
            now = self._clock()
            if now < self._due.get(issuer.jwks, now):
                continue
            try:
                self._sets[issuer.jwks] = _read_keys(issuer)
                self._due[issuer.jwks] = now + _REFRESH_SECONDS
            except Exception as error:  # of the network, of JSON, of a library for keys
                self._due[issuer.jwks] = now + _AGAIN_SECONDS
                faults.append(f"the keys of {issuer.name} cannot be read from {issuer.jwks}: {error}")
                _REPEATED.error(("jwks", issuer.jwks), "tokens: %s", faults[-1])
        self.fault = "; ".join(faults)

    def check(self, token: str, issuers: Mapping[str, Issuer]) -> Claims:
        """Return what a good token says; raises `InputError`, code UNAUTHENTICATED."""
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            named = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except jwt.PyJWTError:
            raise _refused("it is no JSON Web Token, and none of the tokens in the file") from None
        issuer = issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise _refused(f"it is of an issuer that is not in the file ({str(named)[:100]!r})")
        key = self._find(issuer, header.get("kid"))
        try:
            claims = jwt.decode(
                token, key, list(issuer.algorithms), audience=issuer.audience, issuer=issuer.name,
                leeway=_LEEWAY_SECONDS, options={"require": _REQUIRED},
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise _refused("it has ended; ask for a new one") from None
        except jwt.PyJWTError as error:
            raise _refused(f"it is not valid ({error})") from None
        return Claims(issuer.name, str(claims["sub"]), float(claims["exp"]) + _LEEWAY_SECONDS)

    def _find(self, issuer: Issuer, name: object) -> Any:
        """Return the key of that name, or the only one."""
        keys = self._sets[issuer.jwks].keys if issuer.jwks in self._sets else []
        for key in keys:
            if key.key_id == name or (name is None and len(keys) == 1):
                return key
        self._due[issuer.jwks] = min(self._due.get(issuer.jwks, 0.0), self._clock() + _AGAIN_SECONDS)
        raise _refused(f"its key ({str(name)[:100]!r}) is not known yet; send again in {_AGAIN_SECONDS:g} s")


def issuer_of(name: str, table: object) -> Issuer:
    """Read `[issuers."NAME"]` of a token file; raises `PlanError`."""
    where = f'[issuers."{name}"]'
    if not isinstance(table, dict) or not set(table) <= _FIELDS:
        known = "has `audience`, `jwks`, `algorithms` and `root_certificates`, and nothing else"
        raise PlanError(f"{where} {known}", where="tokens")
    for field in ("audience", "jwks"):
        if not isinstance(table.get(field), str) or not table[field]:
            raise PlanError(f"{where} {field}: is missing; write it as text", where="tokens")
    if table["jwks"].startswith("http://"):
        raise PlanError(f"{where} jwks: keys that anybody on the way could change; write https://", where="tokens")
    roots = table.get("root_certificates", "")
    if not isinstance(roots, str) or (roots and not table["jwks"].startswith(_HTTPS)):
        fix = "is the path of a PEM file, for a `jwks` with https://"
        raise PlanError(f"{where} root_certificates: {fix}", where="tokens")
    algorithms = table.get("algorithms", list(ALGORITHMS))
    if not isinstance(algorithms, list) or not algorithms or not set(map(str, algorithms)) <= set(ALGORITHMS):
        known = f"choose among {', '.join(ALGORITHMS)}"
        raise PlanError(f"{where} algorithms={algorithms!r}: {known}", where="tokens")
    try:
        import jwt.algorithms

        assert jwt.algorithms.has_crypto
    except (ImportError, AssertionError):
        raise PlanError(f"{where} needs a library: pip install 'polku[jwt]'", where="tokens") from None
    return Issuer(name, table["audience"], table["jwks"], tuple(algorithms), roots)


def _read_keys(issuer: Issuer) -> Any:
    import jwt

    if not issuer.is_local:
        context = ClientTls(issuer.root_certificates or None).context()  # its files are read each time
        with urllib.request.urlopen(issuer.jwks, timeout=_FETCH_SECONDS, context=context) as response:
            content = response.read(_MOST_BYTES)
    else:
        with open(issuer.jwks, "rb") as file:
            content = file.read(_MOST_BYTES)
    return jwt.PyJWKSet.from_dict(json.loads(content))


def _refused(text: str) -> InputError:
    return InputError(Code.UNAUTHENTICATED, f"authorization: the token is not taken: {text}")
