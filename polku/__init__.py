"""POLKU: event routing as code, every moving part an actor on Ray. Start with `Hub`."""

from __future__ import annotations

from polku.batch import Batch
from polku.buffer.strategy import BufferStrategy, Overflow
from polku.codes import Code
from polku.contracts import Emitter, Failure, IngestContext, Ingestor, Middleware, Source
from polku.emit import (
    ActorEmitter,
    AhtiEmitter,
    Breaker,
    ExternalEmitter,
    GrpcEmitter,
    KafkaEmitter,
    PluginSlot,
    Resilience,
    Retry,
    StdoutEmitter,
    WebhookEmitter,
)
from polku.errors import (
    EmitError,
    InputError,
    MisconfiguredError,
    PlanError,
    PolkuError,
    RecordError,
    RejectedError,
    RetryableError,
    SettingError,
    UnavailableError,
)
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.events import new_event, new_id, outcome_name, severity_name, typed_data
from polku.hub import Hub, Runner
from polku.ingest import CloudEventsIngestor, ExternalIngestor, JsonIngestor, KafkaSource, PassthroughIngestor
from polku.limits import Limits
from polku.middleware import (
    Aggregator,
    Deduplicator,
    Enricher,
    Filter,
    OnInvalid,
    RateLimiter,
    Router,
    Sampler,
    Strategy,
    Throttle,
    Transform,
    Validator,
    has_data,
    json_payload,
    max_size,
    non_empty,
)
from polku.pipeline import Pipeline
from polku.plan import AckLevel, Plan
from polku.receipt import Refusal
from polku.sender import Sender, SendReceipt
from polku.version import __version__

__all__ = [
    "AckLevel",
    "ActorEmitter",
    "Aggregator",
    "AhtiEmitter",
    "Batch",
    "Breaker",
    "BufferStrategy",
    "CloudEventsIngestor",
    "Code",
    "Deduplicator",
    "EmitError",
    "Emitter",
    "Enricher",
    "Event",
    "ExternalEmitter",
    "ExternalIngestor",
    "Failure",
    "Filter",
    "GrpcEmitter",
    "Hub",
    "IngestContext",
    "Ingestor",
    "InputError",
    "JsonIngestor",
    "KafkaEmitter",
    "KafkaSource",
    "Limits",
    "Middleware",
    "MisconfiguredError",
    "OnInvalid",
    "Outcome",
    "Overflow",
    "PassthroughIngestor",
    "Pipeline",
    "Plan",
    "PlanError",
    "PluginSlot",
    "PolkuError",
    "RateLimiter",
    "RecordError",
    "Refusal",
    "RejectedError",
    "Resilience",
    "Retry",
    "RetryableError",
    "Router",
    "Runner",
    "Sampler",
    "SendReceipt",
    "Sender",
    "SettingError",
    "Severity",
    "Source",
    "StdoutEmitter",
    "Strategy",
    "Throttle",
    "Transform",
    "UnavailableError",
    "Validator",
    "WebhookEmitter",
    "__version__",
    "has_data",
    "json_payload",
    "max_size",
    "new_event",
    "new_id",
    "non_empty",
    "outcome_name",
    "severity_name",
    "typed_data",
]
