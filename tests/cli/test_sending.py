"""`polku send` at gateways that do not answer."""

from __future__ import annotations

import asyncio

from polku import Batch, BufferStrategy, Hub, new_event
from polku.cli.sending import Target, send
from tests.support.server import polku_here


def test_a_gateway_that_does_not_answer_is_reported_while_it_is_waited_for() -> None:
    opened, told = asyncio.Event(), asyncio.Event()
    reports: list[str] = []

    async def hold(batch: Batch) -> None:
        await opened.wait()

    def report(text: str) -> None:
        reports.append(text)
        told.set()

    async def scenario(address: str) -> int:
        to, events = Target(address, None), iter([new_event("t", source="s") for _ in range(3_000)])
        sending = asyncio.create_task(
            send(events, to=to, source="", cluster="", report=report, advance=lambda count: None, patience=0.1)
        )
        await asyncio.wait_for(told.wait(), 30)
        assert not sending.done()
        release()
        return (await asyncio.wait_for(sending, 30)).accepted

    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(1)).emitter(hold)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:

        def release() -> None:
            from polku.aio import loop_thread

            async def open_it() -> None:
                opened.set()

            loop_thread.submit(open_it()).result(30)

        assert asyncio.run(scenario(str(pipeline.address))) == 3_000
    assert reports[0].startswith("polku: the gateway has not answered for 0.1 s, and is waited for; see `polku health`")


def test_a_port_that_speaks_http_is_told_apart_from_a_gateway() -> None:
    with Hub(runtime="inline").emitter(lambda batch: None, name="out").start(http_addr="127.0.0.1:0") as pipeline:
        sent = polku_here("send", "--to", str(pipeline.http_address), "--type", "x")
    assert sent.returncode == 1
    assert "speaks no gRPC; is it the gateway's HTTP port? `polku ps`" in sent.stderr
