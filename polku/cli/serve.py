"""`polku serve`: the gateway that the environment describes.

It is apart from the other commands so that it can run without the library that parses their options: that takes 9 MB,
a quarter of a whole inline gateway.
"""

from __future__ import annotations

import os

from polku.cli.settings import read_settings, unknown_variables
from polku.log_format import configure, warn


def serve_environment() -> None:
    """Run the gateway as the POLKU_* variables say until a signal comes; raises `SettingError`."""
    settings = read_settings(os.environ)
    configure(settings.log_level, settings.log_format)
    for sentence in unknown_variables(os.environ):
        warn(sentence)
    import polku  # its emitters are loaded where they are asked for
    from polku import BufferStrategy, Hub
    from polku.monitoring.run_files import name_command

    name_command("polku serve")

    hub = Hub(runtime=settings.runtime).buffer_strategy(BufferStrategy.ring(settings.buffer_capacity))
    if settings.emit_grpc_endpoints:
        hub.emitter(polku.GrpcEmitter(settings.emit_grpc_endpoints))
    if settings.emit_ahti_endpoint:
        hub.emitter(polku.AhtiEmitter(settings.emit_ahti_endpoint))
    if not settings.emit_grpc_endpoints and not settings.emit_ahti_endpoint:
        hub.emitter(polku.StdoutEmitter())
    hub.lanes(settings.lanes)
    if settings.plugin_token:
        hub.allow_plugins(settings.plugin_token)
    hub.run(
        grpc_addr=settings.grpc_addr,
        http_addr=settings.http_addr,
        otlp_addr=settings.otlp_addr,
        otlp_http_addr=settings.otlp_http_addr,
        http_token=settings.http_token,
        drain=settings.drain_seconds,
    )
