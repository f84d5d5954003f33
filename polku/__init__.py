"""POLKU: event routing as code, every moving part an actor on Ray. Start with `Hub`.

General layout, in the order in which a batch passes; `docs/internals.md` explains it:

- hub, plan, pipeline, sender: what users start from
- event, v1, ahti: generated code of the wire contract
- contracts, errors, codes, limits, checks, lazy, aio: what every other part may use
- batch: what travels: batches, their receipts, their bytes
- link: flow control, acknowledgement and recovery between two parts
- gateway, security, http2, ingest: clients and sources in, who they are, raw bytes to events
- stage, middleware, claims: events to events
- buffer, dead_letters: what waits, in memory or on disk; what could not be delivered
- emit, postgres, ray_serve, kafka, redis, nats, otlp, external: events to their destinations; from Kafka on in both
  directions
- files, schedule, pull: files, the standard input and the clock as sources, and what sources share
- change: what differs between two plans, and what of it a pipeline that runs can take
- runtime, actors: the same parts in one process, or as actors on Ray
- plugin, testing, bench, cli: for authors of plugins, for tests, for measurements, for the command line
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polku.lazy import exports
from polku.version import __version__

if TYPE_CHECKING:
    from polku.actors.datasets import PolkuDatasink, read_journal
    from polku.actors.remote_step import RemoteStep
    from polku.batch.batch import Batch
    from polku.batch.receipt import Refusal
    from polku.buffer.strategy import BufferStrategy, Overflow
    from polku.claims.middleware import ClaimCheck, Redeem
    from polku.codes import Code
    from polku.contracts import Emitter, Failure, IngestContext, Ingestor, Middleware, Reply, Source
    from polku.emit import (
        ActorEmitter,
        AhtiEmitter,
        Breaker,
        Compression,
        ExternalEmitter,
        GrpcEmitter,
        KafkaEmitter,
        NatsEmitter,
        ObjectFormat,
        OtlpCompression,
        OtlpEmitter,
        OtlpProtocol,
        PluginSlot,
        PostgresEmitter,
        RedisStreamsEmitter,
        Resilience,
        Retry,
        S3Emitter,
        StdoutEmitter,
        WebhookEmitter,
        WindowEmitter,
    )
    from polku.errors import (
        ChangeError,
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
    from polku.events import new_event, outcome_name, severity_name, typed_data
    from polku.gateway.tls import Tls
    from polku.hub import Hub
    from polku.ids import new_id
    from polku.ingest import (
        CloudEventsIngestor,
        ExternalIngestor,
        FileSource,
        HmacVerifier,
        JsonIngestor,
        KafkaSource,
        NatsSource,
        OtlpIngestor,
        PassthroughIngestor,
        RayEventsIngestor,
        RedisStreamsSource,
        ScheduleSource,
        StdinSource,
        Tick,
    )
    from polku.limits import Limits
    from polku.middleware import (
        Aggregator,
        Batched,
        Batching,
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
    from polku.ray_serve.emitter import ServeEmitter
    from polku.ray_serve.middleware import ServeMiddleware
    from polku.runner import Runner
    from polku.scaling import Scaling
    from polku.security.client_tls import Certificate
    from polku.security.secret import Secret
    from polku.sender import Sender, SendReceipt

__all__ = [
    "AckLevel",
    "ActorEmitter",
    "Aggregator",
    "AhtiEmitter",
    "Batch",
    "Batched",
    "Batching",
    "Breaker",
    "BufferStrategy",
    "Certificate",
    "ChangeError",
    "ClaimCheck",
    "CloudEventsIngestor",
    "Code",
    "Compression",
    "Deduplicator",
    "EmitError",
    "Emitter",
    "Enricher",
    "Event",
    "ExternalEmitter",
    "ExternalIngestor",
    "Failure",
    "FileSource",
    "Filter",
    "GrpcEmitter",
    "HmacVerifier",
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
    "NatsEmitter",
    "NatsSource",
    "ObjectFormat",
    "OnInvalid",
    "OtlpCompression",
    "OtlpEmitter",
    "OtlpIngestor",
    "OtlpProtocol",
    "Outcome",
    "Overflow",
    "PassthroughIngestor",
    "Pipeline",
    "Plan",
    "PlanError",
    "PluginSlot",
    "PolkuDatasink",
    "PolkuError",
    "PostgresEmitter",
    "RateLimiter",
    "RayEventsIngestor",
    "RecordError",
    "Redeem",
    "RedisStreamsEmitter",
    "RedisStreamsSource",
    "Refusal",
    "RejectedError",
    "RemoteStep",
    "Reply",
    "Resilience",
    "Retry",
    "RetryableError",
    "Router",
    "Runner",
    "S3Emitter",
    "Sampler",
    "Scaling",
    "ScheduleSource",
    "Secret",
    "SendReceipt",
    "Sender",
    "ServeEmitter",
    "ServeMiddleware",
    "SettingError",
    "Severity",
    "Source",
    "StdinSource",
    "StdoutEmitter",
    "Strategy",
    "Throttle",
    "Tick",
    "Tls",
    "Transform",
    "UnavailableError",
    "Validator",
    "WebhookEmitter",
    "WindowEmitter",
    "__version__",
    "has_data",
    "json_payload",
    "max_size",
    "new_event",
    "new_id",
    "non_empty",
    "outcome_name",
    "read_journal",
    "severity_name",
    "typed_data",
]

if not TYPE_CHECKING:
    __getattr__ = exports(
        __name__,
        {
            "polku.actors.datasets": ("PolkuDatasink", "read_journal"),
            "polku.actors.remote_step": ("RemoteStep",),
            "polku.batch.batch": ("Batch",),
            "polku.batch.receipt": ("Refusal",),
            "polku.buffer.strategy": ("BufferStrategy", "Overflow"),
            "polku.claims.middleware": ("ClaimCheck", "Redeem"),
            "polku.codes": ("Code",),
            "polku.contracts": ("Emitter", "Failure", "IngestContext", "Ingestor", "Middleware", "Reply", "Source"),
            "polku.emit": (
                "ActorEmitter",
                "AhtiEmitter",
                "Breaker",
                "Compression",
                "GrpcEmitter",
                "ObjectFormat",
                "Resilience",
                "Retry",
                "S3Emitter",
                "StdoutEmitter",
                "WebhookEmitter",
                "WindowEmitter",
            ),
            "polku.errors": (
                "ChangeError",
                "EmitError",
                "InputError",
                "MisconfiguredError",
                "PlanError",
                "PolkuError",
                "RecordError",
                "RejectedError",
                "RetryableError",
                "SettingError",
                "UnavailableError",
            ),
            "polku.event.v1.event_pb2": ("Event", "Outcome", "Severity"),
            "polku.events": ("new_event", "outcome_name", "severity_name", "typed_data"),
            "polku.external.emitter": ("ExternalEmitter",),
            "polku.external.ingestor": ("ExternalIngestor",),
            "polku.external.plugin_slot": ("PluginSlot",),
            "polku.files.source": ("FileSource",),
            "polku.files.stdin": ("StdinSource",),
            "polku.gateway.tls": ("Tls",),
            "polku.hub": ("Hub",),
            "polku.ids": ("new_id",),
            "polku.ingest": (
                "CloudEventsIngestor",
                "HmacVerifier",
                "JsonIngestor",
                "PassthroughIngestor",
                "RayEventsIngestor",
            ),
            "polku.kafka.emitter": ("KafkaEmitter",),
            "polku.kafka.source": ("KafkaSource",),
            "polku.limits": ("Limits",),
            "polku.middleware": (
                "Aggregator",
                "Batched",
                "Batching",
                "Deduplicator",
                "Enricher",
                "Filter",
                "OnInvalid",
                "RateLimiter",
                "Router",
                "Sampler",
                "Strategy",
                "Throttle",
                "Transform",
                "Validator",
                "has_data",
                "json_payload",
                "max_size",
                "non_empty",
            ),
            "polku.nats.emitter": ("NatsEmitter",),
            "polku.nats.source": ("NatsSource",),
            "polku.otlp.emitter": ("OtlpCompression", "OtlpEmitter", "OtlpProtocol"),
            "polku.otlp.ingestor": ("OtlpIngestor",),
            "polku.pipeline": ("Pipeline",),
            "polku.plan": ("AckLevel", "Plan"),
            "polku.postgres.emitter": ("PostgresEmitter",),
            "polku.ray_serve.emitter": ("ServeEmitter",),
            "polku.ray_serve.middleware": ("ServeMiddleware",),
            "polku.redis.emitter": ("RedisStreamsEmitter",),
            "polku.redis.source": ("RedisStreamsSource",),
            "polku.runner": ("Runner",),
            "polku.scaling": ("Scaling",),
            "polku.schedule": ("ScheduleSource", "Tick"),
            "polku.security.client_tls": ("Certificate",),
            "polku.security.secret": ("Secret",),
            "polku.sender": ("Sender", "SendReceipt"),
        },
    )
