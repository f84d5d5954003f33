"""The names in a client's certificate, the one that says most first.

A SPIFFE id (https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md: a URI among the alternative names)
counts alone; else the DNS names; else the common name, which RFC 6125 leaves to where there is nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SPIFFE = "spiffe://"


def names_of(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names in what `ssl.SSLSocket.getpeercert` returns; none where there is no certificate."""
    if not certificate:
        return ()
    alternative: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    names = list(alternative)
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    hosts = [value for kind, value in names if kind == "DNS"]
    return _chosen([value for kind, value in names if kind == "URI"], hosts, common)


def names_of_context(context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """Return the names in grpcio's `auth_context()`, which does not say of what kind an alternative name is."""
    names = [name.decode("utf-8", "replace") for name in context.get("x509_subject_alternative_name", ())]
    common = [name.decode("utf-8", "replace") for name in context.get("x509_common_name", ())]
    return _chosen([name for name in names if "://" in name], [name for name in names if "://" not in name], common)


def _chosen(uris: list[str], hosts: list[str], common: list[str]) -> tuple[str, ...]:
    ids = [uri for uri in uris if uri.startswith(_SPIFFE)]
    return tuple(ids or hosts or common)
