"""Plugins that answer with as much as one answer may have: a server of both kinds, in plain grpcio."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent import futures

import grpc
from google.protobuf.empty_pb2 import Empty

from polku import Event
from polku.v1 import plugin_pb2 as v1
from polku.v1 import plugin_pb2_grpc

COUNT = 10_000
ERRORS = b"errors"
_SIZES = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class _Refusing(plugin_pb2_grpc.EmitterPluginServicer):
    def Info(self, request: Empty, context: grpc.ServicerContext) -> v1.PluginInfo:
        return v1.PluginInfo(name="archive", version="1", type=v1.PLUGIN_TYPE_EMITTER)

    def Health(self, request: Empty, context: grpc.ServicerContext) -> v1.PluginHealthResponse:
        return v1.PluginHealthResponse(healthy=True)

    def Emit(self, request: v1.EmitRequest, context: grpc.ServicerContext) -> v1.EmitResponse:
        ids = [event.id for event in request.events]
        errors = [v1.EmitError(event_id=event_id, message="there is no such thing") for event_id in ids]
        return v1.EmitResponse(failed_event_ids=ids, errors=errors)

    def Shutdown(self, request: Empty, context: grpc.ServicerContext) -> v1.ShutdownResponse:
        return v1.ShutdownResponse(success=True)


class _Parsing(plugin_pb2_grpc.IngestorPluginServicer):
    def Info(self, request: Empty, context: grpc.ServicerContext) -> v1.PluginInfo:
        return v1.PluginInfo(name="parse", version="1", type=v1.PLUGIN_TYPE_INGESTOR, sources=["parsed"])

    def Health(self, request: Empty, context: grpc.ServicerContext) -> v1.PluginHealthResponse:
        return v1.PluginHealthResponse(healthy=True)

    def Ingest(self, request: v1.IngestRequest, context: grpc.ServicerContext) -> v1.IngestResponse:
        if request.data == ERRORS:
            return v1.IngestResponse(errors=[v1.IngestError(offset=n, message="is none") for n in range(COUNT)])
        events = [Event(id=f"e{n}", source="parsed", event_type="t", payload=bytes(300)) for n in range(COUNT)]
        return v1.IngestResponse(events=events)


@contextlib.contextmanager
def plugins() -> Iterator[str]:
    """Run both, and yield their address."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=_SIZES)
    plugin_pb2_grpc.add_EmitterPluginServicer_to_server(_Refusing(), server)
    plugin_pb2_grpc.add_IngestorPluginServicer_to_server(_Parsing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(1).wait()
