"""Who registers a plugin, and what it may register as."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polku.external.info_checks import routing_name
from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PluginInfo

if TYPE_CHECKING:
    from polku.security.account import Account

CALL_TOKEN = "polku-plugin-call-token"
"""The metadata of `Register` with the token that calls of the plugin have to show."""


class Caller(NamedTuple):
    """The host that a call came from (empty: a Unix socket), and whose token it has shown.

    Without an account it is the token of all plugins. `token` is what calls of the plugin have to show.
    """

    host: str = ""
    account: Account | None = None
    token: str | None = None

    @property
    def owner(self) -> str:
        """The name of the principal; empty for the token of all plugins."""
        return "" if self.account is None else self.account.name

    def fault(self, info: PluginInfo) -> str:
        """Return why it may not register this plugin; empty where it may."""
        account = self.account
        if account is None:
            return ""
        names = [info.name, *([routing_name(info)] if info.type == PLUGIN_TYPE_EMITTER else [])]
        for name in names:
            if not account.plugins.fit(name):
                allowed = str(account.plugins) or "none"
                fix = f"allowed are {allowed}; have it added to its `plugins`"
                return account.sentence(f"plugin {name[:80]!r} is not among its plugins; {fix}")
        strange = next((source for source in info.sources if not account.sources.fit(source)), None)
        return "" if strange is None else account.origin_fault("source", strange)


ANYBODY = Caller()
