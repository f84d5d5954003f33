"""gRPC's interop cases (doc/interop-test-descriptions.md of gRPC) against the gateway's own gRPC server.

grpc-go's interop client runs them in `make slow`. grpcio's is in no package: here its library makes the calls of the
same cases, in `make test`.
"""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.clients.interop_messages import message
from tests.clients.interop_server import SERVICE, serving
from tests.clients.toolchains import go_program

_PACKAGE, _VERSION = "google.golang.org/grpc/interop/client", "v1.85.0"
# All that the client has but authentication and load reports (ORCA), which the server does not offer, and
# special_status_message: line breaks and tabs of a status come as escapes, so that they forge no line of a log.
CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "pick_first_unary",
    "rpc_soak",
    "channel_soak",
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as address:
        yield address


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return go_program(_PACKAGE, _VERSION, tmp_path_factory.mktemp("interop"))


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first build takes minutes
@pytest.mark.parametrize("case", CASES)
def test_a_case_of_grpc_go(program: str, case: str, address: str, tmp_path: Path) -> None:
    host, _, port = address.rpartition(":")
    command = [program, f"--server_host={host}", f"--server_port={port}", f"--test_case={case}"]
    if case.endswith("_soak"):
        command += ["--soak_iterations=50", "--soak_num_threads=5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def channel(address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        yield channel


def simple(**fields: Any) -> bytes:
    request: bytes = message("SimpleRequest")(**fields).SerializeToString()
    return request


def wanted(*sizes: int, **fields: Any) -> bytes:
    parameters = [message("ResponseParameters")(size=size, interval_us=1_000) for size in sizes]
    request = message("StreamingOutputCallRequest")(response_parameters=parameters, **fields)
    serialised: bytes = request.SerializeToString()
    return serialised


def sizes(answers: Any) -> list[int]:
    return [len(message("StreamingOutputCallResponse").FromString(answer).payload.body) for answer in answers]


def test_unary_calls(channel: Any) -> None:
    assert channel.unary_unary(f"/{SERVICE}/EmptyCall")(b"") == b""
    request = simple(response_size=314_159, payload=message("Payload")(body=bytes(271_828)))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        answer = channel.unary_unary(f"/{SERVICE}/UnaryCall")(request, compression=compression)
        assert len(message("SimpleResponse").FromString(answer).payload.body) == 314_159


def test_streams(channel: Any) -> None:
    requests = [
        message("StreamingInputCallRequest")(payload=message("Payload")(body=bytes(size))).SerializeToString()
        for size in (27_182, 8, 1_828, 45_904)
    ]
    answer = channel.stream_unary(f"/{SERVICE}/StreamingInputCall")(iter(requests))
    assert message("StreamingInputCallResponse").FromString(answer).aggregated_payload_size == 74_922
    answers = channel.unary_stream(f"/{SERVICE}/StreamingOutputCall")(wanted(31_415, 9, 2_653, 58_979))
    assert sizes(answers) == [31_415, 9, 2_653, 58_979]
    for method in ("FullDuplexCall", "HalfDuplexCall"):
        both = channel.stream_stream(f"/{SERVICE}/{method}")
        assert sizes(both(iter([wanted(31_415), wanted(9, 2_653), wanted()]))) == [31_415, 9, 2_653]
        assert sizes(both(iter([]))) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("test status message", "test status message"),
        ("100 % of Unicode BMP ☺ and non-BMP 😈", "100 % of Unicode BMP ☺ and non-BMP 😈"),
        ("\t\nwhitespace\r\n", "\\t\\nwhitespace\\r\\n"),
    ],
)
def test_a_status_comes_as_it_was_given_on_one_line(channel: Any, text: str, told: str) -> None:
    status = message("EchoStatus")(code=2, message=text)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{SERVICE}/UnaryCall")(simple(response_status=status))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, told)
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"/{SERVICE}/FullDuplexCall")(iter([wanted(response_status=status)])))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, told)


def test_metadata_is_echoed(channel: Any) -> None:
    sent = (("x-grpc-test-echo-initial", "initial"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))
    for method, request in (("UnaryCall", simple(response_size=1)), ("FullDuplexCall", wanted(1))):
        call = channel.stream_stream(f"/{SERVICE}/{method}")(iter([request]), metadata=sent)
        assert len(list(call)) == 1
        assert sent[0] in list(call.initial_metadata())
        assert sent[1] in list(call.trailing_metadata())


def test_what_is_not_there_is_unimplemented(channel: Any) -> None:
    for path in (f"/{SERVICE}/UnimplementedCall", "/grpc.testing.UnimplementedService/UnimplementedCall"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_deadlines_and_cancellation(channel: Any) -> None:
    both = channel.stream_stream(f"/{SERVICE}/FullDuplexCall")
    late = message("ResponseParameters")(size=1, interval_us=5_000_000)
    request = message("StreamingOutputCallRequest")(response_parameters=[late]).SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        list(both(iter([request]), timeout=0.1))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    call = both(iter([wanted(31_415), request]))
    assert sizes([next(call)]) == [31_415]
    call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert caught.value.code() is grpc.StatusCode.CANCELLED


def test_a_client_waits_for_each_answer_before_it_asks_again(channel: Any) -> None:
    requests: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream(f"/{SERVICE}/FullDuplexCall")(iter(requests.get, None), timeout=60)
    for size, payload in ((31_415, 27_182), (9, 8), (2_653, 1_828), (58_979, 45_904)):
        requests.put(wanted(size, payload=message("Payload")(body=bytes(payload))))
        assert sizes([next(call)]) == [size]
    requests.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_a_call_that_is_cancelled_before_its_first_message(channel: Any) -> None:
    requests: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_unary(f"/{SERVICE}/StreamingInputCall").future(iter(requests.get, None), timeout=60)
    call.cancel()
    requests.put(None)
    assert call.cancelled()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert channel.unary_unary(f"/{SERVICE}/EmptyCall")(b"", timeout=60) == b""


@pytest.mark.parametrize("channels", [1, 20])
def test_many_large_calls_one_after_the_other(address: str, channels: int) -> None:
    """The cases `rpc_soak` and `channel_soak`, and `pick_first_unary`: all are answered by one server."""
    request = simple(response_size=314_159, payload=message("Payload")(body=bytes(271_828)))

    def on_one_channel(calls: int) -> set[tuple[int, str]]:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(f"/{SERVICE}/UnaryCall", None, message("SimpleResponse").FromString)
            answers = [call(request, timeout=60) for _ in range(calls)]
        return {(len(answer.payload.body), answer.server_id) for answer in answers}

    with ThreadPoolExecutor(5) as pool:
        assert set().union(*pool.map(on_one_channel, [100 // channels] * channels)) == {(314_159, "polku")}
