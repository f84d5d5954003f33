"""Let a plugin, a program in any language, turn raw bytes into events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polku import checks
from polku.clock import Clock
from polku.external.connection import PluginConnection
from polku.security.client_tls import Certificate, Pem
from polku.security.secret import Secret

if TYPE_CHECKING:
    from polku.external.plugin_ingestor import PluginIngestor


@dataclass(frozen=True, slots=True)
class ExternalIngestor:
    """Send the raw bytes of a source, or of several, to the plugin at an address (`polku.v1.IngestorPlugin`).

    The address is `http://host:port`, `https://host:port`, `host:port` or `unix:/path`. The connection is made in the
    background and again whenever it was lost. The plugin's `Info` must say that it is an ingestor and serves the
    sources; what its `Health` says, asked for every `health_interval` seconds, shows in the gateway's Health.

    Up to `concurrency` calls are in flight at once, also those of one stream; order is kept all the same. A call may
    take `timeout` seconds. What the plugin cannot read becomes an error for the sender; a plugin that is down, hangs
    or dies gives the sender UNAVAILABLE, to send again: the plugin may then see the same bytes twice.
    `max_answer_bytes` bounds one answer. `https://` is checked against gRPC's own or the given `root_certificates`
    (PEM); `token` is sent as `authorization: Bearer`.
    """

    source: str | Sequence[str]
    address: str
    timeout: float = field(default=5.0, kw_only=True)
    concurrency: int = field(default=64, kw_only=True)
    health_interval: float = field(default=5.0, kw_only=True)
    max_answer_bytes: int = field(default=64 * 1024 * 1024, kw_only=True)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)
    token: str | Secret | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        sources = (self.source,) if isinstance(self.source, str) else tuple(self.source)
        if not sources or not all(isinstance(source, str) and source for source in sources):
            raise checks.fault("ExternalIngestor", "source", self.source, "name at least one, as 'my-agent'")
        object.__setattr__(self, "source", sources if len(sources) > 1 else sources[0])
        checks.whole("ExternalIngestor", "concurrency", self.concurrency)
        self.connection()

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that it serves."""
        return (self.source,) if isinstance(self.source, str) else tuple(self.source)

    def connection(self) -> PluginConnection:
        """Return the way to the plugin."""
        return PluginConnection(
            where="ExternalIngestor",
            address=self.address,
            timeout=self.timeout,
            health_interval=self.health_interval,
            max_answer_bytes=self.max_answer_bytes,
            root_certificates=self.root_certificates,
            certificate=self.certificate,
            token=self.token,
        )

    def build(self, clock: Clock) -> PluginIngestor:
        """Make the running ingestor."""
        from polku.external.plugin_ingestor import PluginIngestor

        return PluginIngestor(self.sources, self.connection(), self.concurrency)
