"""The channels of an emitter's endpoints: by POLKU's own client, or by grpcio's."""

from __future__ import annotations

import ssl
from functools import partial

from polku.emit.grpc.addresses import Address
from polku.emit.grpc.config import StreamConfig
from polku.emit.grpc.stream import A, Channel, Dialect, GrpcStream
from polku.rpc.channel import Channel as NativeChannel
from polku.rpc.channel import Target

_CONNECT_SECONDS = 10.0


def open_stream(address: Address, config: StreamConfig, dialect: Dialect[A]) -> GrpcStream[A]:
    """Return the stream to one endpoint; nothing is connected before the first message."""
    channel = _open_channel(address, config)
    return GrpcStream(address.target, channel, dialect, timeout=config.timeout, token=config.token)


def _open_channel(address: Address, config: StreamConfig) -> Channel:
    seconds = min(_CONNECT_SECONDS, config.timeout)
    if config.client == "grpcio":
        from polku.emit.grpc.grpcio import GrpcioChannel

        return GrpcioChannel(address, config.root_certificates, seconds)
    context = partial(_context, config.root_certificates) if address.tls else None
    return NativeChannel(Target(address.target, context, seconds))


def _context(root_certificates: bytes | None) -> ssl.SSLContext:
    roots = root_certificates.decode("ascii", "replace") if root_certificates else None
    context = ssl.create_default_context(cadata=roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context
