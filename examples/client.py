"""A client in plain grpcio: one event by SendEvent, then many by StreamEvents with several batches under way.

    python examples/client.py localhost:50051

Only the generated modules are used; a client in another language is written alike, from the files in `proto/`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import grpc

from polku.event.v1 import event_pb2
from polku.v1 import gateway_pb2, gateway_pb2_grpc

IN_FLIGHT = 8


def send_one(stub: gateway_pb2_grpc.GatewayStub) -> None:
    event = event_pb2.Event(event_type="client.started", severity=event_pb2.SEVERITY_INFO)
    ack = stub.SendEvent(gateway_pb2.IngestEvent(source="example-client", event=event), timeout=10)
    print("SendEvent:", "accepted" if ack.event_ids else ack.errors[0].message)


def send_many(stub: gateway_pb2_grpc.GatewayStub, batches: int, size: int) -> None:
    places = threading.Semaphore(IN_FLIGHT)  # an Ack gives a place back: the gateway sets the pace

    def messages() -> Iterator[gateway_pb2.IngestBatch]:
        for batch in range(batches):
            places.acquire()
            message = gateway_pb2.IngestBatch(source="example-client")
            for number in range(size):
                message.events.events.add(id=f"client-{batch}-{number}", event_type="client.tick")
            yield message

    accepted = refused = 0
    for ack in stub.StreamEvents(messages()):
        places.release()
        accepted += len(ack.event_ids)
        refused += len(ack.errors)
        for error in ack.errors:
            print(f"{error.event_id}: {error.code}: {error.message}")
    print(f"StreamEvents: {accepted} accepted, {refused} refused")


def main(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        send_one(stub)
        send_many(stub, batches=20, size=100)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051")
