"""Until when a certificate is valid: the one field of X.509 that the `ssl` module does not tell of a file."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

from msgspec import Struct

_END = "-----END CERTIFICATE-----"
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


class _Element(Struct, frozen=True):
    """One element of DER (X.690): its tag, where its content begins, and where it ends."""

    tag: int
    start: int
    stop: int


def valid_until(pem: str) -> datetime:
    """Return when the first certificate of a PEM file ends to be valid (RFC 5280, section 4.1); raises `ValueError`."""
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE-----") : pem.index(_END) + len(_END)])
    certificate = _element(der, 0, _SEQUENCE)
    at = _element(der, certificate.start, _SEQUENCE).start
    if der[at] == _VERSION:
        at = _element(der, at).stop
    for _ in range(3):  # serial number, signature algorithm, issuer
        at = _element(der, at).stop
    validity = _element(der, at, _SEQUENCE)
    end = _element(der, _element(der, validity.start).stop)
    text = der[end.start : end.stop].decode("ascii")
    if end.tag == _GENERALIZED_TIME:
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    if end.tag != _UTC_TIME:
        raise ValueError("no time where the end of the validity stands")
    century = "20" if text[:2] < "50" else "19"
    return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(der: bytes, at: int, tag: int | None = None) -> _Element:
    if at + 2 > len(der) or (tag is not None and der[at] != tag):
        raise ValueError("not the structure of a certificate")
    size, start = der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(der[start : start + count], "big"), start + count
    if start + size > len(der):
        raise ValueError("a certificate that ends too early")
    return _Element(der[at], start, start + size)
