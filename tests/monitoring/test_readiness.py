"""A destination that is down, seen from the ports and from the command line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polku import Batch, Breaker, BufferStrategy, Hub, Resilience, Retry, RetryableError, new_event
from polku.cli.app import app
from polku.gateway.grpc.server import NativeServer
from polku.gateway.grpcio import GatewayServer
from tests.monitoring.test_admin import get

KEPT = "What waits for it is kept, and sent once its destination takes events again."


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


class Partner:
    """A destination that may be away."""

    name = "partner"
    away = True

    def emit(self, batch: Batch) -> None:
        if self.away:
            raise RetryableError("away")


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_a_destination_that_is_down_takes_the_gateway_out_only_when_its_share_is_full(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLKU_DOOR", door)
    partner = Partner()
    emitter = Resilience(partner, retry=Retry(first=0.01, limit=0.02), breaker=Breaker(failures=1, open_for=0.02))
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2)).emitter(emitter)
    ports = {"grpc_addr": "127.0.0.1:0", "http_addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}
    with hub.start(**ports) as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)

        def serving() -> bool:
            answer = health_pb2.HealthCheckResponse.FromString(check(b"", timeout=30))
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        def public(path: str) -> int:
            return get(pipeline.http_address, path)[0]

        def command(*options: str) -> tuple[int, str]:
            done = CliRunner().invoke(app.group, ["health", "--to", str(pipeline.admin_address), *options])
            return done.exit_code, done.stdout

        sender = pipeline.sender()
        sender.send(new_event("order", source="shop"))
        wait_for(lambda: not pipeline.health().healthy)
        assert (public("/health"), public("/health/ready"), public("/health/live"), serving()) == (200, 200, 200, True)
        assert public("/health?strict") == 503
        assert command() == (0, f"emitter:partner: away\n  {KEPT}\nready\n")
        assert command("--strict")[0] == 1
        sender.send(new_event("order", source="shop"))
        wait_for(lambda: not pipeline.health().ready)
        assert (public("/health"), public("/health/ready"), public("/health/live")) == (503, 503, 200)
        wait_for(lambda: not serving())
        status, text = command()
        assert status == 1
        assert "not ready: the share of emitter 'partner' is full" in text
        partner.away = False
        wait_for(lambda: public("/health/ready") == 200)
        wait_for(serving)


def test_it_is_said_when_a_destination_that_is_down_is_tried_again() -> None:
    emitter = Resilience(
        Partner(), retry=Retry(first=0.01, limit=0.02), breaker=Breaker(failures=1, open_for=59.0, first=59.0)
    )
    with Hub(runtime="inline").emitter(emitter).start(admin_addr="127.0.0.1:0") as pipeline:
        pipeline.sender().send(new_event("order", source="shop"))
        wait_for(lambda: bool(pipeline.health().next_attempts))
        done = CliRunner().invoke(app.group, ["health", "--to", str(pipeline.admin_address)])
        pipeline.stop(timeout=0.0)
    assert re.match(r"emitter:partner: away; next attempt in [1-5][0-9] s\n", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("overflow", "required"),
    [("block", True), ("drop_oldest", True), ("drop_oldest", False), ("drop_newest", True), ("drop_newest", False)],
)
def test_a_full_share_takes_the_gateway_out_only_where_its_rule_is_to_wait(overflow: str, required: bool) -> None:
    emitter = Resilience(Partner(), retry=Retry(first=0.01, limit=0.02), breaker=Breaker(failures=1, open_for=0.02))
    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(2))
    hub = hub.emitter(emitter, overflow=overflow, required=required)
    ports = {"grpc_addr": "127.0.0.1:0", "http_addr": "127.0.0.1:0", "admin_addr": "127.0.0.1:0"}
    with hub.start(**ports) as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        is_drop = overflow != "block"

        def idle() -> float:
            buffer = pipeline.statistics().lanes[0].buffer
            return buffer.outlets["partner"].no_progress_seconds if buffer is not None else 0.0

        def says() -> tuple[int, str]:
            done = CliRunner().invoke(app.group, ["health", "--to", str(pipeline.admin_address)])
            return done.exit_code, done.stdout

        def sees() -> bool:
            """Send on where that drops, and return whether what is said is what is so."""
            if is_drop:
                pipeline.sender().send(new_event("order", source="shop"))
            serving = stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status
            states = [get(pipeline.http_address, path)[0] for path in ("/health", "/health/ready")]
            well = [200, 200] if is_drop else [503, 503]
            return (
                pipeline.health().ready is is_drop
                and states == well
                and (serving == health_pb2.HealthCheckResponse.SERVING) is is_drop
                and says()[0] == (not is_drop)
                and (f"events are dropped by its rule {overflow}" in says()[1]) is is_drop
            )

        for _ in range(2):
            pipeline.sender().send(new_event("order", source="shop"))
        wait_for(lambda: idle() > 1.5)
        wait_for(sees)
        assert get(pipeline.http_address, "/health?strict")[0] == 503
        pipeline.stop(0.0)


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_each_part_has_a_service_name_that_can_be_watched(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLKU_DOOR", door)
    partner = Partner()
    emitter = Resilience(partner, retry=Retry(first=0.01, limit=0.02), breaker=Breaker(failures=1, open_for=0.02))
    hub = Hub(runtime="inline").emitter(emitter)
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="emitter:partner"), timeout=30)
        states = (health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) for answer in watch)
        assert next(state for state in states if state != "SERVICE_UNKNOWN") == "SERVING"
        pipeline.sender().send(new_event("order", source="shop"))
        assert next(states) == "NOT_SERVING"
        whole = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert whole.status == health_pb2.HealthCheckResponse.SERVING
        partner.away = False
        assert next(states) == "SERVING"
        with pytest.raises(grpc.RpcError) as error:
            stub.Check(health_pb2.HealthCheckRequest(service="emitter:nobody"), timeout=30)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert "partner" not in str(error.value.details())
        watch.cancel()


@pytest.mark.parametrize("door", ["native", "grpcio"])
def test_parts_are_not_named_to_strangers_where_clients_have_to_authenticate(
    door: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POLKU_DOOR", door)
    monkeypatch.setattr("polku.gateway.gateway._READINESS_SECONDS", 0.01)
    server: Any = NativeServer if door == "native" else GatewayServer
    looks = []
    set_serving = server.set_serving

    async def seen(self: Any, *arguments: Any) -> None:
        await set_serving(self, *arguments)
        looks.append(arguments)

    monkeypatch.setattr(server, "set_serving", seen)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("")
    hub = Hub(runtime="inline").security(tokens=tokens).emitter(Partner())
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline, grpc.insecure_channel(str(pipeline.address)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        wait_for(lambda: len(looks) > 1)
        with pytest.raises(grpc.RpcError) as error:
            stub.Check(health_pb2.HealthCheckRequest(service="emitter:partner"), timeout=30)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING


def test_the_command_fails_where_nothing_answers() -> None:
    assert CliRunner().invoke(app.group, ["health", "--to", "127.0.0.1:9"]).exit_code == 1
