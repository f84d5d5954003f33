"""A place in the pipeline that is kept for an emitter plugin which registers itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polku import checks
from polku.clock import Clock
from polku.external.callback import Callback
from polku.external.emitter import ExternalEmitter

if TYPE_CHECKING:
    from polku.external.running_slot import RunningSlot


@dataclass(frozen=True, slots=True)
class PluginSlot:
    """Keep a place for the emitter plugin of that name (its `emitter_name`, or where that is empty its own name).

    Until such a plugin has registered (`Hub.allow_plugins`), and while it is gone, the events wait in the buffer, under
    its rule. The other options are those of an `ExternalEmitter`.
    """

    name: str
    timeout: float = field(default=30.0, kw_only=True)
    concurrency: int = field(default=1, kw_only=True)
    max_message_bytes: int = field(default=4 * 1024 * 1024, kw_only=True)
    health_interval: float = field(default=5.0, kw_only=True)
    shutdown_timeout: float = field(default=3.0, kw_only=True)
    root_certificates: bytes | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise checks.fault("PluginSlot", "name", self.name, "must be the emitter's routing name")
        self.emitter(Callback("localhost:1"))

    def emitter(self, where: Callback) -> ExternalEmitter:
        """Return the emitter for the plugin there."""
        return ExternalEmitter(
            self.name,
            where.address,
            token=where.token,
            timeout=self.timeout,
            concurrency=self.concurrency,
            max_message_bytes=self.max_message_bytes,
            health_interval=self.health_interval,
            shutdown_timeout=self.shutdown_timeout,
            root_certificates=self.root_certificates,
        )

    def build(self, clock: Clock) -> RunningSlot:
        """Make the running emitter."""
        from polku.external.running_slot import RunningSlot

        return RunningSlot(self)


def slot_name(emitter: object) -> str | None:
    """Return the name of the slot that an emitter of a plan is, also inside a `Resilience`."""
    inner = getattr(emitter, "emitter", None) if type(emitter).__name__ == "Resilience" else emitter
    return inner.name if isinstance(inner, PluginSlot) else None
