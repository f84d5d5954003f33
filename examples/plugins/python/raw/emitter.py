"""An emitter plugin in plain grpcio: each event becomes a line of a file."""

import os
from concurrent import futures

import grpc

from polku.v1 import plugin_pb2, plugin_pb2_grpc


class MyPlugin(plugin_pb2_grpc.EmitterPluginServicer):
    def Info(self, request, context):
        return plugin_pb2.PluginInfo(
            name="archive",
            version="1.0.0",
            type=plugin_pb2.PLUGIN_TYPE_EMITTER,
        )

    def Health(self, request, context):
        return plugin_pb2.PluginHealthResponse(healthy=True)

    def Emit(self, request, context):
        with open(os.environ.get("ARCHIVE", "archive.log"), "a", encoding="utf-8") as file:
            for event in request.events:
                print(event.id, event.event_type, file=file)
            file.flush()
            os.fsync(file.fileno())  # the answer confirms: the events must be safe by then
        return plugin_pb2.EmitResponse(success_count=len(request.events))

    def Shutdown(self, request, context):
        return plugin_pb2.ShutdownResponse(success=True)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    plugin_pb2_grpc.add_EmitterPluginServicer_to_server(MyPlugin(), server)
    server.add_insecure_port(os.environ.get("POLKU_PLUGIN_ADDRESS", "[::]:9001"))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
