"""Built-in emitters: immutable configurations; what runs is built beside the outlet that feeds it.

Importing this package loads neither grpc nor aiohttp: an emitter loads what it needs when it starts.
"""

from __future__ import annotations

from polku.emit.actor import ActorEmitter
from polku.emit.ahti import AhtiEmitter
from polku.emit.breaker import Breaker
from polku.emit.external import ExternalEmitter
from polku.emit.grpc import GrpcEmitter
from polku.emit.kafka import KafkaEmitter
from polku.emit.object_format import Compression, ObjectFormat
from polku.emit.resilience import Resilience
from polku.emit.retry import Retry
from polku.emit.s3 import S3Emitter
from polku.emit.slot import PluginSlot
from polku.emit.stdout import StdoutEmitter
from polku.emit.webhook import WebhookEmitter

__all__ = [
    "ActorEmitter",
    "AhtiEmitter",
    "Breaker",
    "Compression",
    "ExternalEmitter",
    "GrpcEmitter",
    "KafkaEmitter",
    "ObjectFormat",
    "PluginSlot",
    "Resilience",
    "Retry",
    "S3Emitter",
    "StdoutEmitter",
    "WebhookEmitter",
]
