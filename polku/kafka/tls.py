"""What Kafka's client trusts and shows: it takes PEM when it is made, so that another one is made for other files."""

from __future__ import annotations

import time
from typing import Any

from polku.errors import PlanError
from polku.security.client_tls import ClientTls, Pems, check_client_tls

_LOOK_SECONDS = 1.0
_OURS = ("ssl.ca.", "ssl.certificate.", "ssl.key.", "ssl.keystore.")
_ENCRYPTED = ("ssl", "sasl_ssl")


def check_tls(where: str, config: Any) -> None:
    """Make sure of what a component is to trust and show, and keep its roots as absolute path; raises `PlanError`."""
    roots = check_client_tls(where, config.root_certificates, config.certificate)
    object.__setattr__(config, "root_certificates", roots)
    if roots is None and config.certificate is None:
        return
    for name in config.config:
        if name.startswith(_OURS):
            fix = "leave it out"
            raise PlanError(f"config: {name!r} is said by root_certificates and certificate; {fix}", where=where)
    protocol = config.config.get("security.protocol", _ENCRYPTED[0])
    if str(protocol).lower() not in _ENCRYPTED:
        fix = "write 'ssl' or 'sasl_ssl', or leave it out"
        raise PlanError(
            f"config: 'security.protocol' is {protocol!r}, and root_certificates is for TLS; {fix}", where=where
        )


class KafkaTls:
    """Give a component's clients the properties of TLS, and know when they are others than the last client has."""

    def __init__(self, config: Any) -> None:
        is_wanted = config.root_certificates is not None or config.certificate is not None
        self._tls = ClientTls(config.root_certificates, config.certificate) if is_wanted else None
        has_sasl = "sasl.mechanism" in config.config or "sasl.mechanisms" in config.config
        self._protocol = config.config.get("security.protocol", _ENCRYPTED[has_sasl])
        self._given: Pems | None = None
        self._look_at = 0.0

    def settings(self) -> dict[str, Any]:
        """Return the properties of a client that is made now; raises `ConnectionError` that names what is wrong."""
        if self._tls is None:
            return {}
        self._given = pems = self._tls.pems()
        named = {"ssl.ca.pem": pems.roots, "ssl.certificate.pem": pems.chain, "ssl.key.pem": pems.key}
        found = {name: content.decode("ascii", "replace") for name, content in named.items() if content is not None}
        return {"security.protocol": self._protocol, **found}

    def has_changed(self) -> bool:
        """Return whether files are others than a client was made with; looks each second at most."""
        now = time.monotonic()
        if self._tls is None or self._given is None or now < self._look_at:
            return False
        self._look_at = now + _LOOK_SECONDS
        return self._tls.pems() != self._given
