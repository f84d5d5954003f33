"""An ingestor plugin in plain grpcio, as the specification prints it, with a parser: one event for each line."""

import os
import uuid
from concurrent import futures

import grpc

from polku.event.v1 import event_pb2
from polku.v1 import plugin_pb2, plugin_pb2_grpc


class Record:
    def __init__(self, line):
        self.line = line

    def to_bytes(self):
        return self.line


def parse_my_format(data):
    return [Record(line) for line in data.splitlines() if line]


def generate_id():
    return uuid.uuid4().hex


class MyPlugin(plugin_pb2_grpc.IngestorPluginServicer):
    def Info(self, request, context):
        return plugin_pb2.PluginInfo(
            name="my-python-plugin",
            version="1.0.0",
            type=plugin_pb2.PLUGIN_TYPE_INGESTOR,
            sources=["my-custom-source"],  # POLKU routes this source here
        )

    def Health(self, request, context):
        return plugin_pb2.PluginHealthResponse(healthy=True)

    def Ingest(self, request, context):
        # request.data contains raw bytes
        # Parse your custom format and return Events
        events = []
        for record in parse_my_format(request.data):
            events.append(
                event_pb2.Event(
                    id=generate_id(),
                    source=request.source,
                    event_type="my.event.type",
                    payload=record.to_bytes(),
                )
            )
        return plugin_pb2.IngestResponse(events=events)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    plugin_pb2_grpc.add_IngestorPluginServicer_to_server(MyPlugin(), server)
    server.add_insecure_port(os.environ.get("POLKU_PLUGIN_ADDRESS", "[::]:9001"))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
