"""`polku send` at gateways that do not answer, and through proxies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from polku import Batch, BufferStrategy, Hub, SettingError, new_event
from polku.cli.credentials import NOTHING
from polku.cli.sending import Target, read_target, send
from tests.rpc.proxy import ConnectProxy
from tests.support.server import polku, polku_here


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


def test_this_machine_is_reached_without_the_proxy_that_is_named() -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:1")
    with Hub(runtime="inline").emitter(lambda batch: None, name="out").start(grpc_addr="127.0.0.1:0") as pipeline:
        sent = polku("send", "--to", str(pipeline.address), "--type", "x", **nowhere)
    assert (sent.returncode, sent.stderr.strip()) == (0, "1 accepted, 0 refused")


async def test_other_machines_are_reached_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="out")
    with await asyncio.to_thread(hub.start, grpc_addr="127.0.0.1:0") as pipeline:
        proxy = ConnectProxy(int(str(pipeline.address).rpartition(":")[2]))
        async with proxy.listening() as address:
            monkeypatch.setenv("http_proxy", f"http://us:s%40fe@{address}")
            target = read_target("gateway.invalid:50051", NOTHING)
            assert str(target.proxy) == f"proxy {address}"
            events = iter([new_event("t", source="s")])
            tally = await send(
                events, to=target, source="", cluster="", report=lambda text: None, advance=lambda count: None
            )
            assert tally == (1, 0)
    (asked,) = proxy.asked
    assert asked.startswith(b"CONNECT gateway.invalid:50051 HTTP/1.1\r\n")
    assert b"basic dxm6c0bmzq==" in asked.lower()


def test_a_proxy_is_named_where_it_cannot_be_used_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = polku("send", "--to", "gateway.invalid:50051", "--type", "x", http_proxy="http://127.0.0.1:1")
    assert failed.returncode == 1
    assert "polku: gateway.invalid:50051 (by proxy 127.0.0.1:1): " in failed.stderr
    monkeypatch.setenv("https_proxy", "socks5://somewhere:1080")
    with pytest.raises(SettingError, match=r"HTTPS_PROXY='socks5://somewhere:1080': write http://host:port"):
        read_target("https://gateway.invalid:50051", NOTHING)


def test_many_refusals_are_summed_up(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    good = '{"event_type": "x", "source": "s"}\n'
    lines.write_text(good + "not json\n" * 500 + '{"event_type": 5}\n' * 100 + good)
    with Hub(runtime="inline").emitter(lambda batch: None, name="out").start(grpc_addr="127.0.0.1:0") as pipeline:
        sent = polku("send", "--to", str(pipeline.address), str(lines))
    said = sent.stderr.splitlines()
    assert (sent.returncode, said[-1]) == (1, "2 accepted, 600 refused")
    assert [line.partition(":")[0] for line in said[:-2]] == [f"line {number}" for number in range(2, 22)]
    assert said[-2].startswith("polku: 580 refusals are not shown: ")
    assert sum(int(part.split()[0]) for part in said[-2].rpartition(": ")[2].split(", ")) == 580
