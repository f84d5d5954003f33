"""The example of three destinations, on real endpoints: each gets its own, what one refuses is kept and sent again."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from polku.testing import Destination
from tests.emit.destinations import Ahti, Gateway, Webhook
from tests.support.server import Server, polku

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "destinations.py"


async def test_each_destination_gets_its_own_and_what_is_refused_can_be_sent_again(tmp_path: Path) -> None:
    graph, partner, upstream = Ahti(), Webhook(), Gateway()
    for destination in (graph, partner, upstream):
        await destination.start()
    await partner.kill()  # it is down when the pipeline starts
    await graph.refuse(["pod-3"])
    server = await asyncio.to_thread(
        lambda: Server(
            tmp_path / "server",
            *("run", str(EXAMPLE), "--runtime", "inline", "--grpc-addr", "127.0.0.1:0"),
            AHTI=graph.server.address,
            PARTNER=f"http://127.0.0.1:{partner.port}/",
            UPSTREAM=upstream.sink.address,
            FOLDER=str(tmp_path),
        )
    )
    try:
        await send(server, "k8s.pod.created", [f"pod-{number}" for number in range(6)], tmp_path)
        await send(server, "order.paid", ["order-1", "order-2"], tmp_path)
        await send(server, "user.login", ["login-1"], tmp_path)
        await holds(graph, [f"pod-{number}" for number in range(6) if number != 3])
        await holds(upstream, ["order-1", "order-2", "login-1"])
        assert await partner.held() == []
        await partner.start()
        await holds(partner, ["order-1", "order-2"])
        (letter,) = await letters(tmp_path / "dead.db", 1)
        assert (letter["emitter"], letter["event_id"], letter["reason"]) == ("graph", "pod-3", "as asked")
        await graph.refuse([])
        replayed = await asyncio.to_thread(
            polku, "dlq", "replay", str(tmp_path / "dead.db"), "--emitter", "graph", "--all"
        )
        assert replayed.returncode == 0, replayed.stderr
        await eventually(lambda: has(graph, "pod-3"))
        assert await asyncio.to_thread(server.stop) == 0
    finally:
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        for destination in (graph, partner, upstream):
            await destination.stop()
    assert graph.server.events[0].subtype == "pod.created"
    assert (await partner.held(), await upstream.held()) == (["order-1", "order-2"], ["order-1", "order-2", "login-1"])


async def send(server: Server, event_type: str, ids: list[str], folder: Path) -> None:
    file = folder / "events.ndjson"
    file.write_text("".join(json.dumps({"id": event_id, "event_type": event_type}) + "\n" for event_id in ids))
    sent = await asyncio.to_thread(polku, "send", "--to", server.address, str(file))
    assert sent.returncode == 0, sent.stderr


async def holds(destination: Destination, ids: list[str]) -> None:
    async def has_them() -> bool:
        return await destination.held() == ids

    await eventually(has_them)


async def has(destination: Destination, event_id: str) -> bool:
    return event_id in await destination.held()


async def letters(path: Path, count: int) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []

    async def are_there() -> bool:
        listed = await asyncio.to_thread(polku, "dlq", "list", str(path), "--json")
        found[:] = [json.loads(line) for line in listed.stdout.splitlines()]
        return len(found) >= count

    await eventually(are_there)
    return found


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(45):
        while not await true():  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.05)
