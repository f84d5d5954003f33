"""Who may register with a gateway, and for how long it may be silent."""

from __future__ import annotations

from dataclasses import dataclass, field

from polku import checks
from polku.errors import PlanError
from polku.external.connection import check_token


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRules:
    """Let plugins that know the `token` register; one that is silent for `silent_after` seconds is taken out.

    Without a `token` only principals whose `plugins` name them may. They are called back where they register from;
    `addresses` are networks (`10.0.0.0/8`) and names of hosts (`*.internal`) where they may be too.
    `timeout` is what one call of a registered ingestor may take, in seconds. A plugin that registers an `https://`
    address is checked against gRPC's own or the given `root_certificates` (PEM).
    """

    token: str | None = field(default=None, repr=False)
    addresses: tuple[str, ...] = ()
    silent_after: float = 15.0
    timeout: float = 5.0
    root_certificates: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.token is not None and (not isinstance(self.token, str) or not self.token):
            raise PlanError("token must be a secret that the plugins know", where="allow_plugins")
        check_token("allow_plugins", self.token)
        if not all(isinstance(one, str) and one for one in self.addresses):
            fix = "must be networks or names of hosts, such as ['10.0.0.0/8', '*.internal']"
            raise PlanError(f"addresses={self.addresses!r} {fix}", where="allow_plugins")
        checks.positive("allow_plugins", "silent_after", self.silent_after)
        checks.positive("allow_plugins", "timeout", self.timeout)

    def check(self, *, has_principals: bool) -> None:
        """Raise `PlanError` where nobody could register."""
        if self.token is None and not has_principals:
            fix = "give one, or principals whose `plugins` may register: security(tokens='tokens.toml')"
            raise PlanError(f"there is no token that plugins could show; {fix}", where="allow_plugins")
