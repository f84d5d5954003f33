"""Plugins that break the contract, each in one way; run as `bad_plugins.py WAY`."""

import os
import sys
import threading
import uuid
from concurrent import futures

import grpc
from google.protobuf.empty_pb2 import Empty

from polku.event.v1.event_pb2 import Event
from polku.v1 import plugin_pb2, plugin_pb2_grpc
from polku.v1.plugin_pb2 import (
    EmitRequest,
    EmitResponse,
    IngestError,
    IngestRequest,
    IngestResponse,
    PluginHealthResponse,
    PluginInfo,
)

WAY = sys.argv[1]


class Ingestor(plugin_pb2_grpc.IngestorPluginServicer):
    busy = threading.Lock()

    def Info(self, request: Empty, context: grpc.ServicerContext) -> PluginInfo:
        if WAY == "type":
            return PluginInfo(name="bad", type=plugin_pb2.PLUGIN_TYPE_EMITTER, sources=["x"], version="1")
        if WAY == "sources":
            return PluginInfo(name="bad", type=plugin_pb2.PLUGIN_TYPE_INGESTOR, version="1")
        return PluginInfo(name="bad", type=plugin_pb2.PLUGIN_TYPE_INGESTOR, sources=["x"], version="1")

    def Health(self, request: Empty, context: grpc.ServicerContext) -> PluginHealthResponse:
        return PluginHealthResponse(healthy=WAY != "sick")

    def Ingest(self, request: IngestRequest, context: grpc.ServicerContext) -> IngestResponse:
        if WAY == "raises":
            request.data.decode()
        if WAY == "empty" and not request.data:
            raise ValueError("nothing there")
        if WAY == "offset" and request.data:
            return IngestResponse(errors=[IngestError(message="bad", offset=len(request.data) + 1)])
        if WAY == "exits" and len(request.data) > 1_000_000:
            os._exit(1)
        if WAY == "alone" and not self.busy.acquire(timeout=0.0001):
            context.abort(grpc.StatusCode.INTERNAL, "one at a time")
        if WAY == "alone":
            threading.Event().wait(0.02)
            self.busy.release()
        stamp = 1_700_000_000_000 if WAY == "milliseconds" else 0
        same = "same" if WAY == "twice" else uuid.uuid4().hex
        ids = [same, same] if WAY == "twice" else [uuid.uuid4().hex if WAY == "ids" else ""]
        return IngestResponse(events=[Event(id=i, event_type="x", timestamp_unix_ns=stamp) for i in ids])


class Emitter(plugin_pb2_grpc.EmitterPluginServicer):
    def Info(self, request: Empty, context: grpc.ServicerContext) -> PluginInfo:
        return PluginInfo(name="bad", type=plugin_pb2.PLUGIN_TYPE_EMITTER, version="1")

    def Health(self, request: Empty, context: grpc.ServicerContext) -> PluginHealthResponse:
        return PluginHealthResponse(healthy=True)

    def Emit(self, request: EmitRequest, context: grpc.ServicerContext) -> EmitResponse:
        count = len(request.events)
        if WAY == "emit-count":
            return EmitResponse()
        if WAY == "emit-strange":
            return EmitResponse(success_count=count, failed_event_ids=["who?"])
        if WAY == "emit-unexplained" and request.events:
            return EmitResponse(success_count=count - 1, failed_event_ids=[request.events[0].id])
        return EmitResponse(success_count=count)

    def Shutdown(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.ShutdownResponse:
        if WAY == "emit-shutdown":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
        return plugin_pb2.ShutdownResponse(success=True)


server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 64 << 20)])
if WAY.startswith("emit"):
    plugin_pb2_grpc.add_EmitterPluginServicer_to_server(Emitter(), server)
elif WAY != "nothing":
    plugin_pb2_grpc.add_IngestorPluginServicer_to_server(Ingestor(), server)
server.add_insecure_port(os.environ["POLKU_PLUGIN_ADDRESS"])
server.start()
server.wait_for_termination()
