"""What no attempt cures is said at the first one, with the field, its value and what to write; nothing is given up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from polku import GrpcEmitter, Hub, OtlpEmitter, Pipeline, Retry, RetryableError, Tls, new_event
from polku.emit.unreachable import is_of_settings
from polku.errors import RejectedError
from tests.emit.resilience import batch, resilient
from tests.support.authority import Authority
from tests.support.virtual_time import in_virtual_time


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture(scope="module")
def gateway(authority: Authority) -> Iterator[Pipeline]:
    server = authority.issue()
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing").security(tls=Tls(server.cert, server.key))
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        yield pipeline


def first_complaint(emitter: Any) -> tuple[str, int]:
    """Return what health says of an emitter as soon as it says something, and after how many attempts."""
    hub = Hub(runtime="inline").emitter(emitter, name="there")
    with hub.start(admin_addr="off") as pipeline:
        assert pipeline.sender().send([new_event("x", id="a", source="s")]).ok
        deadline = time.monotonic() + 30
        while not (alarm := statistics(pipeline).alarm):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        attempts = statistics(pipeline).attempts
        assert not pipeline.health().components["emitter:there"][0]
        assert pipeline.stop(0.1).emitters["there"].dead == 0
    return alarm, attempts


def statistics(pipeline: Pipeline) -> Any:
    return pipeline.statistics().lanes[0].emitters["there"]


KINDS: list[Callable[..., Any]] = [
    GrpcEmitter,
    lambda address, **options: GrpcEmitter(address, client="grpcio", **options),
    OtlpEmitter,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_of_an_authority_that_is_not_known_is_said_at_the_first_attempt(
    kind: Callable[..., Any], gateway: Pipeline, other: Authority
) -> None:
    alarm, attempts = first_complaint(kind(f"https://{gateway.address}", root_certificates=str(other.cert)))
    assert attempts <= 2  # it may have been tried again by the time of the look
    assert f"root_certificates='{other.cert}' does not have the authority of the server's certificate" in alarm


def test_a_certificate_for_another_name_is_said_at_the_first_attempt(authority: Authority) -> None:
    server = authority.issue()
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing").security(tls=Tls(server.cert, server.key))
    with hub.start(grpc_addr="127.0.0.2:0", admin_addr="off") as pipeline:
        address = f"https://{pipeline.address}"
        alarm, attempts = first_complaint(GrpcEmitter(address, root_certificates=str(authority.cert)))
    assert attempts <= 2
    assert f"endpoints='{address}': the server's certificate is for other names; write one of those" in alarm


def test_a_certificate_that_has_expired_is_said_at_the_first_attempt(authority: Authority) -> None:
    server = authority.issue("late", days=-1)
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing").security(tls=Tls(server.cert, server.key))
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        alarm, _ = first_complaint(GrpcEmitter(f"https://{pipeline.address}", root_certificates=str(authority.cert)))
    assert "the server's certificate is not valid at this time; renew it, or set the clock" in alarm


class Elsewhere:
    """Call a host whose name nobody knows."""

    url = "postgresql://me:hunter2@no-such-host:5432/shop"

    async def emit(self, batch: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@in_virtual_time
async def test_a_host_name_that_nobody_knows_is_said_at_the_first_attempt_and_tried_again_for_ever() -> None:
    running, slept, _ = resilient(Elsewhere(), retry=Retry(attempts=3))
    task = asyncio.ensure_future(running.emit(batch("a")))
    while not slept:  # noqa: ASYNC110 - virtual time
        await asyncio.sleep(0)
    alarm = running.statistics().alarm
    assert running.statistics().attempts == 1
    fix = (
        "url='postgresql://me:***@no-such-host:5432/shop': no host is known by that name; correct it, or have it known"
    )
    assert fix in alarm
    while len(slept) < 50:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize(
    ("text", "is_told"),
    [
        ("cannot connect: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate", True),
        ("Ssl handshake failed: OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer", True),
        ("certificate verify failed: Hostname mismatch, certificate is not valid for 'db'", True),
        ("error trying to connect: invalid peer certificate: UnknownIssuer", True),
        ('invalid peer certificate: certificate not valid for name "db"', True),
        ("[Errno -2] Name or service not known", True),
        ("dns error: failed to lookup address information: Name or service not known", True),
        ("[Errno -3] Temporary failure in name resolution", False),
        ("[Errno 111] Connection refused", False),
        ("no answer within 10 s", False),
    ],
)
def test_what_clients_say_is_known(text: str, is_told: bool) -> None:
    assert is_of_settings(RetryableError(text)) is is_told
    assert not is_of_settings(RejectedError(text))
    assert not is_of_settings(ValueError(text))
