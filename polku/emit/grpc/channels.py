"""The channels of an emitter's endpoints: by POLKU's own client, or by grpcio's."""

from __future__ import annotations

from polku.emit.grpc.addresses import Address
from polku.emit.grpc.config import StreamConfig
from polku.emit.grpc.stream import A, ChannelLike, Dialect, GrpcStream
from polku.rpc.channel import Channel as NativeChannel
from polku.rpc.channel import Target
from polku.security.client_tls import ClientTls

_CONNECT_SECONDS = 10.0


def open_stream(address: Address, config: StreamConfig, dialect: Dialect[A]) -> GrpcStream[A]:
    """Return the stream to one endpoint; nothing is connected before the first message."""
    channel = _open_channel(address, config)
    return GrpcStream(address.target, channel, dialect, timeout=config.timeout, token=config.token)


def _open_channel(address: Address, config: StreamConfig) -> ChannelLike:
    seconds = min(_CONNECT_SECONDS, config.timeout)
    tls = ClientTls(config.root_certificates, config.certificate, protocols=["h2"]) if address.tls else None
    if config.client == "grpcio":
        from polku.emit.grpc.grpcio import GrpcioChannel

        return GrpcioChannel(address, tls, seconds)
    return NativeChannel(Target(address.target, tls.context if tls is not None else None, seconds))
