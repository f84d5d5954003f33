"""Lanes of actors open their ports again, and so do those of them that Ray starts again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import grpc
import pytest
import ray

from polku import Batch, ChangeError, Event, Hub, Limits, Pipeline
from polku.v1.gateway_pb2 import IngestEvent
from polku.v1.gateway_pb2_grpc import GatewayStub
from tests.gateway.test_moved import is_open
from tests.gateway.test_opened_again import Clients

pytestmark = pytest.mark.usefixtures("ray_session")


def hub(message_bytes: int = 100_000, tokens: str | None = None) -> Hub:
    def out(batch: Batch) -> None:
        pass

    made = Hub(runtime="ray").lanes(2).limits(Limits(message_bytes=message_bytes)).emitter(out, name="out")
    return made if tokens is None else made.security(tokens=tokens)


def refuses(pipeline: Pipeline, size: int) -> bool:
    """Return whether an event of that size is refused over a new connection."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(str(pipeline.address), options) as channel:
        try:
            GatewayStub(channel).SendEvent(IngestEvent(event=Event(id="a", payload=bytes(size))), timeout=30)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False


def takes(address: str) -> bool:
    """Return whether an event is accepted there."""
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return bool(GatewayStub(channel).SendEvent(IngestEvent(event=Event(event_type="t")), timeout=30).event_ids)
        except grpc.RpcError:
            return False


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow
def test_every_lane_takes_other_limits_of_its_port_and_keeps_them() -> None:
    with hub(100_000).start(grpc_addr="127.0.0.1:0") as pipeline:
        address = pipeline.address
        assert not refuses(pipeline, 50_000)
        with pytest.raises(ChangeError, match=r"nowhere\.toml"):
            pipeline.update_plan(hub(10_000, "nowhere.toml").plan("ray"))
        assert not refuses(pipeline, 50_000)
        pipeline.update_plan(hub(10_000).plan("ray"))
        assert pipeline.address == address
        assert all(refuses(pipeline, 50_000) for _ in range(10))
        for lane in pipeline._runtime.parts.lanes:  # type: ignore[attr-defined]
            ray.kill(lane.ingest, no_restart=False)
        until(lambda: refuses(pipeline, 50_000))
        assert not refuses(pipeline, 5_000)


def test_every_lane_moves_to_another_address_or_none_does() -> None:
    free = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free.append(f"127.0.0.1:{probe.getsockname()[1]}")
    first, second = free
    with hub().listen(grpc_addr=first).start() as pipeline:
        clients = Clients(f"ipv4:{first},{second}", count=4)
        try:
            clients.more()
            with socket.create_server(("127.0.0.1", 0)) as taken:
                address = f"127.0.0.1:{taken.getsockname()[1]}"
                with pytest.raises(ChangeError, match="in use"):
                    pipeline.update_plan(hub().listen(grpc_addr=address).plan("ray"))
            assert pipeline.address == first
            changed = pipeline.update_plan(hub().listen(grpc_addr=second).plan("ray"))
            assert f"address grpc: {second} (was {first})" in str(changed.difference)
            until(lambda: not is_open(first))
            clients.more()
        finally:
            clients.end()
        assert pipeline.address == second
        assert clients.errors == []
        for lane in pipeline._runtime.parts.lanes:  # type: ignore[attr-defined]
            ray.kill(lane.ingest, no_restart=False)
        until(lambda: takes(second))  # they are started again, and have their ports where these were moved to
        assert not is_open(first)
