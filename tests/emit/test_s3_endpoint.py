"""The S3Emitter against a real S3 endpoint, which refuses, dies in mid-upload and comes back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

from polku import (
    Batch,
    Breaker,
    BufferStrategy,
    Event,
    Hub,
    MisconfiguredError,
    Resilience,
    Retry,
    RetryableError,
    S3Emitter,
    new_event,
)
from polku.clock import SystemClock
from tests.emit.s3_server import KEYS, S3Server
from tests.support.ports import free_port

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def module_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.kill()


@pytest.fixture
def server(module_server: S3Server) -> S3Server:
    module_server.post("/moto-api/reset")
    module_server.client().create_bucket(Bucket="events")
    return module_server


def random_events(count: int, size: int) -> list[Event]:
    return [new_event("t", source="s", id=f"{n:05d}", payload=os.urandom(size)) for n in range(count)]


async def emit(config: S3Emitter, *events: Event) -> None:
    running = config.build(SystemClock())
    running.start()
    assert await running.emit(Batch.from_events(events)) == []


async def test_an_object_is_in_the_bucket_below_the_prefix(server: S3Server) -> None:
    await emit(S3Emitter("s3://events/raw/in", options=server.options), *random_events(10, 10))
    ((key, content),) = server.objects().items()
    assert key.startswith("raw/in/s/20")
    assert content.count(b"\n") == 10
    head = server.client().head_object(Bucket="events", Key=key)
    assert head["ContentType"] == "application/x-ndjson"


@pytest.mark.parametrize("source", ["..", "../..", "a/b", "a%2Fb", "ä ö", "a\nb", "+&=?#"])
async def test_a_name_stays_below_the_prefix_and_can_be_read_back(server: S3Server, source: str) -> None:
    await emit(
        S3Emitter("s3://events/in", options=server.options, key="{source}/{batch}"), new_event("t", source=source)
    )
    ((key, content),) = server.objects().items()
    prefix, piece, name = key.split("/")
    assert prefix == "in"
    assert piece.isascii()
    assert piece.isprintable()
    assert name.endswith(".ndjson")
    assert content


async def test_a_store_on_this_machine_is_reached_without_the_proxy_that_is_named(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await emit(S3Emitter("s3://events/in", options=server.options, timeout=30), *random_events(1, 10))
    monkeypatch.undo()
    assert len(server.objects()) == 1


async def test_what_a_proxy_does_not_let_through_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    options = {**KEYS, "endpoint": "http://store.example"}
    running = S3Emitter("s3://events/in", options=options, timeout=2).build(SystemClock())
    running.start()
    with pytest.raises(RetryableError, match=r"s3://events/in \(by proxy 127.0.0.1:1\): "):
        await running.emit(Batch.from_events(random_events(1, 10)))


async def test_a_large_object_is_uploaded_in_parts(server: S3Server) -> None:
    events = random_events(24, MEGABYTE)
    config = S3Emitter("s3://events", options=server.options, format="protobuf", part_bytes=8 * MEGABYTE)
    await emit(config, *events)
    ((key, content),) = server.objects().items()
    assert len(content) > 24 * MEGABYTE
    head = server.client().head_object(Bucket="events", Key=key)
    assert head["ETag"].strip('"').endswith("-4")
    assert all(event.payload in content for event in events)


async def test_writing_again_overwrites(server: S3Server) -> None:
    events = random_events(10, 10)
    for order in (events, events[::-1], events):
        await emit(S3Emitter("s3://events", options=server.options), *order)
    assert len(server.objects()) == 1


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("s3://absent", {}, "NoSuchBucket"),
        ("s3://events", {"access_key_id": ""}, "no credentials: set them in the environment"),
    ],
)
async def test_what_must_be_mended_holds_everything(
    server: S3Server, url: str, options: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # The service that hands out credentials on a machine of AWS is not here either.
    merged = {**server.options, **options}
    if not merged["access_key_id"]:
        del merged["access_key_id"], merged["secret_access_key"]
        merged["metadata_endpoint"] = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(MisconfiguredError, match=text):
        await emit(S3Emitter(url, options=merged, timeout=30), new_event("t", source="s"))


async def test_refused_credentials_are_a_configuration_error() -> None:
    strict = S3Server(INITIAL_NO_AUTH_ACTION_COUNT="1")  # after the bucket was made, moto checks who asks
    try:
        with pytest.raises(MisconfiguredError, match=r"403 .*InvalidAccessKeyId"):
            await emit(S3Emitter("s3://events", options=strict.options), new_event("t", source="s"))
    finally:
        strict.kill()


@pytest.fixture
async def answering() -> AsyncIterator[tuple[dict[str, str], list[tuple[int, str]]]]:
    """An endpoint that answers as S3 does where moto cannot: with the next of these statuses and codes."""
    answers: list[tuple[int, str]] = []

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        if not answers:
            return web.Response(headers={"ETag": '"x"'})
        status, code = answers.pop(0)
        return web.Response(status=status, text=f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield {**KEYS, "endpoint": f"http://127.0.0.1:{runner.addresses[0][1]}"}, answers
    await runner.cleanup()


async def test_a_wrong_clock_is_named(answering: tuple[dict[str, str], list[tuple[int, str]]]) -> None:
    options, answers = answering
    answers.append((403, "RequestTimeTooSkewed"))
    with pytest.raises(MisconfiguredError, match=r"clock skew \(RequestTimeTooSkewed\)"):
        await emit(S3Emitter("s3://events", options=options), new_event("t", source="s"))


async def test_server_errors_are_tried_again(answering: tuple[dict[str, str], list[tuple[int, str]]]) -> None:
    options, answers = answering
    answers.extend([(503, "SlowDown")] * 10)
    with pytest.raises(RetryableError, match="SlowDown"):
        await emit(S3Emitter("s3://events", options=options), new_event("t", source="s"))
    running = Resilience(S3Emitter("s3://events", options=options), retry=Retry(limit=0.1)).build(SystemClock())
    await running.start()
    assert await running.emit(Batch.from_events([new_event("t", source="s")])) == []
    assert not answers


async def test_an_endpoint_that_does_not_answer_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it listens and accepts nothing
        options = {**KEYS, "endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with pytest.raises(RetryableError):
            await emit(S3Emitter("s3://events", options=options, timeout=0.3), new_event("t", source="s"))


def test_an_endpoint_that_dies_in_mid_upload_and_comes_back_has_everything_once() -> None:
    server = S3Server()
    try:
        _die_in_mid_upload(server)
    finally:
        server.kill()


def _die_in_mid_upload(server: S3Server) -> None:
    config = S3Emitter(
        "s3://events/in",
        options=server.options,
        format="protobuf",
        max_events=20,
        max_bytes=64 * MEGABYTE,
        max_age=3600,
        part_bytes=5 * MEGABYTE,
        timeout=5,
    )
    quick = Resilience(config, retry=Retry(limit=0.2), breaker=Breaker(open_for=0.2))
    events = random_events(30, MEGABYTE)
    client = server.client()
    strategy = BufferStrategy.ring(max_bytes=256 * MEGABYTE)
    with Hub(runtime="inline").buffer_strategy(strategy).emitter(quick).start() as pipeline:
        for start in range(0, 30, 2):
            assert pipeline.sender().send(events[start : start + 2]).ok
        while not client.list_multipart_uploads(Bucket="events").get("Uploads"):
            time.sleep(0.02)
        server.kill()  # it has some parts of an object that is not complete
        while pipeline.health().healthy:
            time.sleep(0.02)
        server.start()
        report = pipeline.stop(60)
        assert report.complete
        assert report.emitters["s3"][:2] == (30, 0)
    contents = list(server.objects().values())
    assert len(contents) == 2
    assert [sum(event.payload in content for content in contents) for event in events] == [1] * 30
