"""The specification's Python plugin with a parser filled in: one event for each line, and tricks on request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
from google.protobuf.empty_pb2 import Empty

from polku.event.v1 import event_pb2
from polku.v1 import plugin_pb2, plugin_pb2_grpc


def parse_my_format(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    for line in data.splitlines(keepends=True):
        yield position, line.rstrip(b"\n")
        position += len(line)


class MyPlugin(plugin_pb2_grpc.IngestorPluginServicer):
    def Info(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        if os.environ.get("TRICK") == "hang":
            time.sleep(60)
        return plugin_pb2.PluginInfo(
            name="my-python-plugin",
            version="1.0.0",
            type=plugin_pb2.PluginType.ValueType(int(os.environ.get("TYPE", plugin_pb2.PLUGIN_TYPE_INGESTOR))),
            sources=os.environ.get("SOURCES", "my-custom-source").split(","),
        )

    def Health(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginHealthResponse:
        sick = os.environ.get("SICK", "")
        return plugin_pb2.PluginHealthResponse(healthy=not sick, message=sick, components={"disk": not sick})

    def Ingest(self, request: plugin_pb2.IngestRequest, context: grpc.ServicerContext) -> plugin_pb2.IngestResponse:
        response = plugin_pb2.IngestResponse()
        for offset, line in parse_my_format(request.data):
            word, _, rest = line.partition(b" ")
            if word == b"die":
                os._exit(9)
            if word == b"sleep":
                time.sleep(float(rest))
            elif word == b"raise":
                raise ValueError("no such thing")
            elif word == b"refuse":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not my format")
            elif word == b"huge":
                response.events.append(event_pb2.Event(payload=bytes(int(rest))))
            elif word == b"bad":
                response.errors.append(
                    plugin_pb2.IngestError(message="unreadable", details=rest.decode(), offset=offset)
                )
            else:
                metadata = {"cluster": request.cluster, "format": request.format} if request.format else {}
                response.events.append(
                    event_pb2.Event(id=line.decode(), event_type="my.event.type", payload=line, metadata=metadata)
                )
        return response


class Garbage(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # it has parameters in its annotations only
    """Answer everything with what is no message."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"\xff\xff\xff garbage")


def serve() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), options=[("grpc.so_reuseport", 0)])
    if os.environ.get("TRICK") == "garbage":
        server.add_generic_rpc_handlers((Garbage(),))
    else:
        plugin_pb2_grpc.add_IngestorPluginServicer_to_server(MyPlugin(), server)
    address = os.environ.get("ADDRESS") or f"127.0.0.1:{os.environ.get('PORT', 9001)}"
    certificate = os.environ.get("CERTIFICATE")
    if certificate:
        with open(os.environ["KEY"], "rb") as key, open(certificate, "rb") as chain:
            credentials = grpc.ssl_server_credentials([(key.read(), chain.read())])
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    server.start()
    print("listening on", port, json.dumps({"pid": os.getpid()}), flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
