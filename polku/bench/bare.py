"""The bare baseline: what a program of a few lines reaches that checks, buffers and promises nothing.

Batches go through a filter and a transform, written out, and on to the sink; unary calls are only echoed as Acks. It
is measured beside a pipeline, since a machine's moods hit both alike: their ratio says more than any number.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from polku.aio.loops import new_event_loop
from polku.bench.processes import usage
from polku.runtime.serving import tune_process
from polku.v1.gateway_pb2 import Ack, IngestBatch, IngestEvent

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
_SINK_BATCHES = 8  # in flight to the sink, as in a GrpcEmitter


class Relay:
    """Take StreamEvents and SendEvent, and stream to the sink."""

    def __init__(self, sink: str) -> None:
        channel: Any = grpc.aio.insecure_channel(sink, _UNLIMITED)
        self._out: Any = channel.stream_stream("/polku.v1.Gateway/StreamEvents")()
        self._places = asyncio.Semaphore(_SINK_BATCHES)

    async def read_acks(self) -> None:
        """Free a place for each Ack of the sink."""
        async for _ in self._out:
            self._places.release()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Filter, transform, send on, acknowledge."""
        async for data in requests:
            batch = IngestBatch.FromString(data)
            events = list(batch.events.events)
            ids = [event.id for event in events]
            kept = [event for event in events if event.event_type.startswith("user.")]
            for event in kept:
                event.metadata["processed"] = "true"
            await self._places.acquire()
            await self._out.write(batch.SerializeToString())
            await context.write(Ack(event_ids=ids).SerializeToString())

    async def echo(self, data: bytes, context: Any) -> bytes:
        """Acknowledge."""
        return Ack(event_ids=[IngestEvent.FromString(data).event.id]).SerializeToString()


async def main(order: dict[str, Any]) -> None:
    """Serve until SIGTERM, in the language of `polku.bench.host`."""
    relay = Relay(order["sink"].removeprefix("http://"))
    reading = asyncio.ensure_future(relay.read_acks())
    server = grpc.aio.server(options=_UNLIMITED)
    methods = {
        "StreamEvents": grpc.stream_stream_rpc_method_handler(relay.stream),
        "SendEvent": grpc.unary_unary_rpc_method_handler(relay.echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.Gateway", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def stop() -> None:
        await server.stop(0)
        reading.cancel()

    await answer_until_stopped(order, port, stop)


async def answer_until_stopped(order: dict[str, Any], port: int, stop: Callable[[], Awaitable[None]]) -> None:
    """Say that the port is open, answer questions until SIGTERM, then stop, report, and end this process."""
    answers = os.fdopen(order["answers"], "w", buffering=1)
    tune_process()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(json.dumps({"address": f"127.0.0.1:{port}"}), file=answers)
    answering = asyncio.ensure_future(asyncio.to_thread(_answer, answers))
    await stopped.wait()
    await stop()
    print(json.dumps({"emitters": {}, "complete": True, "seconds": 0.0}), file=answers)
    answers.close()
    answering.cancel()
    os._exit(0)  # the thread that answers waits for a line


def _answer(answers: Any) -> None:
    for _ in sys.stdin:
        print(json.dumps({"bare": usage(os.getpid())}), file=answers)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(json.loads(sys.argv[1])))
