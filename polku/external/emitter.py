"""Let a plugin, a program in any language, hand events to a destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polku import checks
from polku.clock import Clock
from polku.external.connection import PluginConnection
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret

if TYPE_CHECKING:
    from polku.external.plugin_emitter import PluginEmitter


@dataclass(frozen=True, slots=True)
class ExternalEmitter:
    """Hand events to the plugin at an address (`polku.v1.EmitterPlugin`), whose answer confirms all but those it names.

    The address is `http://host:port`, `https://host:port`, `host:port` or `unix:/path`. The plugin's `Info` must say
    that it is an emitter, and name it `name` (its `emitter_name`, or where that is empty its own name); until it does,
    everything is held. What its `Health` says, asked for every `health_interval` seconds, shows in the gateway's
    Health. `Shutdown` is called when the pipeline stops, and may take `shutdown_timeout` seconds.

    Failed events are tried again, or become dead letters where their error says `retryable=false`; where the counts of
    an answer do not add up, all events that it does not name are tried again. Where its code fails for a batch
    (INTERNAL, UNKNOWN), the batch is sent in halves: an event for which it does so alone is passed, and becomes a dead
    letter after five attempts between which others were taken, for which later events are sent ahead; a plugin that
    fails for all is tried again as one that is down. A batch over
    `max_message_bytes`, or over the limit that the plugin names, is split. One call at a time keeps the order; with a
    `concurrency`, calls overtake each other. A call may take `timeout` seconds; when one is cut off, the plugin may
    have delivered it all the same and gets it again. `https://` is checked against gRPC's own or the given
    `root_certificates` (PEM); `token` is sent as `authorization: Bearer`.
    """

    name: str
    address: str
    timeout: float = field(default=30.0, kw_only=True)
    concurrency: int = field(default=1, kw_only=True)
    max_message_bytes: int = field(default=4 * 1024 * 1024, kw_only=True)
    health_interval: float = field(default=5.0, kw_only=True)
    shutdown_timeout: float = field(default=3.0, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)

    may_recover = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise checks.fault("ExternalEmitter", "name", self.name, "must be the emitter's routing name")
        checks.whole("ExternalEmitter", "concurrency", self.concurrency)
        checks.whole("ExternalEmitter", "max_message_bytes", self.max_message_bytes)
        checks.positive("ExternalEmitter", "shutdown_timeout", self.shutdown_timeout)
        self.connection()

    def connection(self) -> PluginConnection:
        """Return the way to the plugin."""
        return PluginConnection(
            where="ExternalEmitter",
            address=self.address,
            timeout=self.timeout,
            health_interval=self.health_interval,
            root_certificates=self.root_certificates,
            certificate=self.certificate,
            token=self.token,
        )

    def build(self, clock: Clock) -> PluginEmitter:
        """Make the running emitter."""
        from polku.external.plugin_emitter import PluginEmitter

        return PluginEmitter(self)
