"""An emitter plugin in plain grpcio that writes ids to the file OUT; an event's type asks for a trick."""

import os
import time
from concurrent import futures
from typing import ClassVar

import grpc
from google.protobuf.empty_pb2 import Empty

from polku.v1 import plugin_pb2, plugin_pb2_grpc


class MyPlugin(plugin_pb2_grpc.EmitterPluginServicer):
    seen: ClassVar[set[str]] = set()

    def Info(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(
            name=os.environ.get("NAME", "archive"),
            version="1.0.0",
            type=plugin_pb2.PLUGIN_TYPE_EMITTER,
            emitter_name=os.environ.get("EMITTER_NAME", ""),
        )

    def Health(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginHealthResponse:
        return plugin_pb2.PluginHealthResponse(healthy=True)

    def Emit(self, request: plugin_pb2.EmitRequest, context: grpc.ServicerContext) -> plugin_pb2.EmitResponse:
        response = plugin_pb2.EmitResponse()
        done: list[str] = []
        again: set[str] = set()
        trick = ""
        if os.path.exists(os.environ["OUT"] + ".broken"):
            raise LookupError("no table")
        if any(event.event_type == "raise" for event in request.events):
            raise ValueError("no such column")
        if any(event.event_type == "invalid" for event in request.events):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "there is no such thing")
        with open(os.environ["OUT"] + ".traces", "a") as out:
            print(*(event.metadata.get("traceparent", "") for event in request.events), sep="\n", file=out)
        for event in request.events:
            first = event.id not in self.seen
            self.seen.add(event.id)
            if event.event_type == "die" and not os.path.exists(os.environ["OUT"] + ".died"):
                open(os.environ["OUT"] + ".died", "w").close()
                os._exit(9)
            if event.event_type == "hang" and first:
                time.sleep(60)
            if event.event_type in ("wrong", "short", "unnamed") and first:
                trick = event.event_type
                again.add(event.id)
            elif event.event_type == "never" or (event.event_type == "later" and first):
                again.add(event.id)
                response.failed_event_ids.append(event.id)
                response.errors.append(
                    plugin_pb2.EmitError(
                        event_id=event.id, message=f"refused: {event.id}", retryable=event.event_type == "later"
                    )
                )
            else:
                done.append(event.id)
        with open(os.environ["OUT"], "a") as out:
            print(f"call {len(request.events)}", *done, file=out)
        response.success_count = len(done)
        if trick == "wrong":
            response.failed_event_ids.append("somebody-else")
        elif trick == "unnamed":
            response.failed_event_ids.extend(again)
        return response

    def Shutdown(self, request: Empty, context: grpc.ServicerContext) -> plugin_pb2.ShutdownResponse:
        with open(os.environ["OUT"], "a") as out:
            print("shutdown", file=out)
        return plugin_pb2.ShutdownResponse(success=True)


def serve() -> None:
    limit = int(os.environ.get("LIMIT", 4 * 1024 * 1024))
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", limit)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), options=options)
    plugin_pb2_grpc.add_EmitterPluginServicer_to_server(MyPlugin(), server)
    port = server.add_insecure_port(f"127.0.0.1:{os.environ.get('PORT', 9002)}")
    server.start()
    print("listening on", port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    serve()
