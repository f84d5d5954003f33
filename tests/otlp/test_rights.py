"""Who may send what by OTLP: tokens, sources, rates and the stamp, over gRPC (both servers) and HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from polku import Hub
from polku.otlp import log_record
from polku.otlp.signals import LOGS
from polku.security.token_file import file_lines
from tests.otlp.requests import Answer, Door, door, logs, retry_seconds

TOKENS = file_lines("shop", "shop", {"sources": ["shop"]}, None) + file_lines(
    "slow", "slow", {"events_per_second": 0.001}, None
)
CODES = grpc.StatusCode


@pytest.fixture(scope="module", params=["native", "grpcio"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    path: Path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(TOKENS)
    hub = Hub(runtime="inline").security(tokens=path, stamp="polku.principal")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLKU_DOOR", request.param)
        with door(hub) as opened:
            yield opened


def send(place: Door, way: str, body: bytes, token: str = "") -> Answer:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    place.events.clear()
    return place.grpc(LOGS, body, headers) if way == "grpc" else place.http(LOGS, body, headers)


def own(way: str, code: grpc.StatusCode, status: int) -> int:
    return int(code.value[0]) if way == "grpc" else status


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_a_client_must_say_who_it_is(place: Door, way: str) -> None:
    body = logs(["a"]).SerializeToString()
    assert send(place, way, body).status == own(way, CODES.UNAUTHENTICATED, 401)
    assert send(place, way, body, "wrong").status == own(way, CODES.UNAUTHENTICATED, 401)
    assert send(place, way, body, "shop").status == own(way, CODES.OK, 200)
    assert [event.metadata["polku.principal"] for event in place.events] == ["shop"]


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_a_principal_sends_what_it_has_a_right_to(place: Door, way: str) -> None:
    own_logs, others = logs(["mine", "mine too"]), logs(["not mine"], service="bank")
    both = own_logs.SerializeToString() + others.SerializeToString()
    answer = send(place, way, both, "shop")
    partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
    assert partial.rejected_log_records == 1
    assert "PERMISSION_DENIED" in partial.error_message
    assert [log_record(event).body.string_value for event in place.events] == ["mine", "mine too"]
    denied = send(place, way, others.SerializeToString(), "shop")
    assert denied.status == own(way, CODES.PERMISSION_DENIED, 403)
    assert place.pipeline.dead_letters() == []  # who has no right to it does not fill them


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_a_client_over_its_rate_is_told_when_to_come_again(place: Door, way: str) -> None:
    body = logs(["a"] * 50).SerializeToString()
    for _ in range(2):
        answer = send(place, way, body, "slow")
    assert answer.status == own(way, CODES.RESOURCE_EXHAUSTED, 429)
    if way == "http":
        assert int(str(answer.headers["Retry-After"])) >= 1
    else:
        assert retry_seconds(answer.headers) >= 1
