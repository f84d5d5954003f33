"""Built-in emitters: immutable configurations; what runs is built beside the outlet that feeds it.

Importing this package loads neither grpc nor aiohttp: an emitter loads what it needs when it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polku.lazy import exports

if TYPE_CHECKING:
    from polku.emit.actor import ActorEmitter
    from polku.emit.ahti.emitter import AhtiEmitter
    from polku.emit.breaker import Breaker
    from polku.emit.grpc.emitter import GrpcEmitter
    from polku.emit.resilience import Resilience
    from polku.emit.retry import Retry
    from polku.emit.s3.emitter import S3Emitter
    from polku.emit.s3.format import Compression, ObjectFormat
    from polku.emit.stdout import StdoutEmitter
    from polku.emit.webhook import WebhookEmitter
    from polku.emit.window import WindowEmitter
    from polku.external.emitter import ExternalEmitter
    from polku.external.plugin_slot import PluginSlot
    from polku.kafka.emitter import KafkaEmitter
    from polku.nats.emitter import NatsEmitter
    from polku.otlp.emitter import OtlpCompression, OtlpEmitter, OtlpProtocol
    from polku.postgres.emitter import PostgresEmitter
    from polku.redis.emitter import RedisStreamsEmitter

__all__ = [
    "ActorEmitter",
    "AhtiEmitter",
    "Breaker",
    "Compression",
    "ExternalEmitter",
    "GrpcEmitter",
    "KafkaEmitter",
    "NatsEmitter",
    "ObjectFormat",
    "OtlpCompression",
    "OtlpEmitter",
    "OtlpProtocol",
    "PluginSlot",
    "PostgresEmitter",
    "RedisStreamsEmitter",
    "Resilience",
    "Retry",
    "S3Emitter",
    "StdoutEmitter",
    "WebhookEmitter",
    "WindowEmitter",
]

if not TYPE_CHECKING:
    __getattr__ = exports(
        __name__,
        {
            "polku.emit.actor": ("ActorEmitter",),
            "polku.emit.ahti.emitter": ("AhtiEmitter",),
            "polku.emit.breaker": ("Breaker",),
            "polku.emit.grpc.emitter": ("GrpcEmitter",),
            "polku.emit.resilience": ("Resilience",),
            "polku.emit.retry": ("Retry",),
            "polku.emit.s3.emitter": ("S3Emitter",),
            "polku.emit.s3.format": ("Compression", "ObjectFormat"),
            "polku.emit.stdout": ("StdoutEmitter",),
            "polku.emit.webhook": ("WebhookEmitter",),
            "polku.emit.window": ("WindowEmitter",),
            "polku.external.emitter": ("ExternalEmitter",),
            "polku.external.plugin_slot": ("PluginSlot",),
            "polku.kafka.emitter": ("KafkaEmitter",),
            "polku.nats.emitter": ("NatsEmitter",),
            "polku.otlp.emitter": ("OtlpCompression", "OtlpEmitter", "OtlpProtocol"),
            "polku.postgres.emitter": ("PostgresEmitter",),
            "polku.redis.emitter": ("RedisStreamsEmitter",),
        },
    )
