"""The OpenTelemetry Protocol (OTLP 1.x), in both directions: what comes in by it, and what goes out.

`signals` names the three signals, `wire` cuts requests apart and joins them, `reading` makes events of records and
`grouping` requests of events, byte for byte where nobody has changed a record. `json` is OTLP's own JSON. What takes
requests in stands in `polku.gateway.otlp`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polku.lazy import exports

if TYPE_CHECKING:
    from polku.otlp.records import attribute, log_record, metric, resource, set_record, span

__all__ = ["attribute", "log_record", "metric", "resource", "set_record", "span"]

if not TYPE_CHECKING:
    __getattr__ = exports(__name__, {"polku.otlp.records": __all__})
