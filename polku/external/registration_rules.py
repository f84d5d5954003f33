"""Who may register with a gateway, and for how long it may be silent."""

from __future__ import annotations

from dataclasses import dataclass, field

from polku import checks
from polku.errors import PlanError
from polku.external.connection import check_token


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRules:
    """Let plugins that know the `token` register; one that is silent for `silent_after` seconds is taken out.

    `timeout` is what one call of a registered ingestor may take, in seconds. A plugin that registers an `https://`
    address is checked against gRPC's own or the given `root_certificates` (PEM).
    """

    token: str = field(repr=False)
    silent_after: float = 15.0
    timeout: float = 5.0
    root_certificates: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.token, str) or not self.token:
            raise PlanError("token must be a secret that the plugins know", where="allow_plugins")
        check_token("allow_plugins", self.token)
        checks.positive("allow_plugins", "silent_after", self.silent_after)
        checks.positive("allow_plugins", "timeout", self.timeout)
