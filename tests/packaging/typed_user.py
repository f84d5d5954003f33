"""What a user writes against the generated modules; `mypy --strict` has to be content with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from typing import assert_type

import grpc
import grpc.aio
from google.protobuf import empty_pb2

from polku.ahti.v1 import events_pb2, events_pb2_grpc
from polku.event.v1 import event_pb2
from polku.v1 import gateway_pb2, gateway_pb2_grpc, plugin_pb2, plugin_pb2_grpc


class Plugin(plugin_pb2_grpc.EmitterPluginServicer):
    def Info(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(
            name="x", type=plugin_pb2.PLUGIN_TYPE_EMITTER, emitter_name="x", capabilities=["batch"]
        )

    def Health(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginHealthResponse:
        return plugin_pb2.PluginHealthResponse(healthy=True, components={"db": True})

    def Emit(self, request: plugin_pb2.EmitRequest, context: grpc.ServicerContext) -> plugin_pb2.EmitResponse:
        failed = [event.id for event in request.events if event.severity < event_pb2.SEVERITY_ERROR]
        return plugin_pb2.EmitResponse(success_count=len(request.events), failed_event_ids=failed)

    def Shutdown(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.ShutdownResponse:
        return plugin_pb2.ShutdownResponse(success=True)


class AsyncIngest(plugin_pb2_grpc.IngestorPluginServicer):
    async def Info(
        self,
        request: empty_pb2.Empty,
        context: grpc.aio.ServicerContext[empty_pb2.Empty, plugin_pb2.PluginInfo],
    ) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(name="x", type=plugin_pb2.PluginType.PLUGIN_TYPE_INGESTOR)

    async def Health(
        self,
        request: empty_pb2.Empty,
        context: grpc.aio.ServicerContext[empty_pb2.Empty, plugin_pb2.PluginHealthResponse],
    ) -> plugin_pb2.PluginHealthResponse:
        return plugin_pb2.PluginHealthResponse(healthy=True)

    async def Ingest(
        self,
        request: plugin_pb2.IngestRequest,
        context: grpc.aio.ServicerContext[plugin_pb2.IngestRequest, plugin_pb2.IngestResponse],
    ) -> plugin_pb2.IngestResponse:
        event = event_pb2.Event(
            id="1", metadata={"a": "b"}, payload=request.data, network=event_pb2.NetworkEventData(protocol="tcp")
        )
        return plugin_pb2.IngestResponse(events=[event])


class Sink(gateway_pb2_grpc.GatewayServicer):
    def StreamEvents(
        self, request_iterator: Iterator[gateway_pb2.IngestBatch], context: grpc.ServicerContext
    ) -> Iterator[gateway_pb2.Ack]:
        for batch in request_iterator:
            yield gateway_pb2.Ack(event_ids=[event.id for event in batch.events.events])

    def SendEvent(self, request: gateway_pb2.IngestEvent, context: grpc.ServicerContext) -> gateway_pb2.Ack:
        which = request.WhichOneof("payload")
        if which == "event":
            return gateway_pb2.Ack(event_ids=[request.event.id])
        return gateway_pb2.Ack(errors=[gateway_pb2.AckError(code="x", message=str(which))])

    def Health(self, request: gateway_pb2.HealthRequest, context: grpc.ServicerContext) -> gateway_pb2.HealthResponse:
        return gateway_pb2.HealthResponse(healthy=True, components={"a": gateway_pb2.ComponentHealth(healthy=True)})


def serve() -> grpc.Server:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    plugin_pb2_grpc.add_EmitterPluginServicer_to_server(Plugin(), server)
    gateway_pb2_grpc.add_GatewayServicer_to_server(Sink(), server)
    return server


def serve_async() -> grpc.aio.Server:
    server = grpc.aio.server()
    plugin_pb2_grpc.add_IngestorPluginServicer_to_server(AsyncIngest(), server)
    return server


def call(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        ack = stub.SendEvent(gateway_pb2.IngestEvent(source="s", event=event_pb2.Event(id="1")), timeout=1.0)
        assert_type(ack, gateway_pb2.Ack)
        for answer in stub.StreamEvents(iter([gateway_pb2.IngestBatch(source="s")])):
            assert_type(answer, gateway_pb2.Ack)
        return list(ack.event_ids)


async def call_async(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        ack = await stub.SendEvent(gateway_pb2.IngestEvent(source="s"))
        assert_type(ack, gateway_pb2.Ack)
        async for answer in stub.StreamEvents(batches()):
            assert_type(answer, gateway_pb2.Ack)


async def batches() -> AsyncIterator[gateway_pb2.IngestBatch]:
    yield gateway_pb2.IngestBatch(source="s")


def ahti(channel: grpc.Channel) -> bool:
    stub = events_pb2_grpc.AhtiServiceStub(channel)
    event = events_pb2.AhtiEvent(id="1", type=events_pb2.EVENT_TYPE_POD)
    event.timestamp.FromNanoseconds(1)
    return stub.SendEvent(event).success
