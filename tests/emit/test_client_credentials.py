"""Emitters that show a certificate or a token, by which the other side knows them, and proxies of webhooks."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from polku import (
    Batch,
    Certificate,
    Event,
    GrpcEmitter,
    HmacVerifier,
    Hub,
    IngestContext,
    JsonIngestor,
    MisconfiguredError,
    OtlpEmitter,
    PlanError,
    RetryableError,
    Secret,
    Tls,
    WebhookEmitter,
)
from polku.clock import SystemClock
from tests.support.authority import Authority, Pair, put, replace

TOKENS = """
[worker]
certificates = ["spiffe://example.org/worker"]
"""


@pytest.fixture(scope="module")
def worker(authority: Authority) -> Pair:
    return authority.issue("worker", uri="spiffe://example.org/worker")


@pytest.fixture(scope="module")
def gateway(authority: Authority, server: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    path.write_text(TOKENS)
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing")
    hub.security(tls=Tls(server.cert, server.key, client_ca=authority.cert), tokens=path)
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        yield f"https://{pipeline.address}"


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id, event_type="t", source="s") for event_id in ids])


@asynccontextmanager
async def running(config: Any) -> AsyncIterator[Any]:
    emitter = config.build(SystemClock())
    if hasattr(emitter, "start"):
        await emitter.start()
    try:
        yield emitter
    finally:
        await emitter.close()


@pytest.mark.parametrize("client", ["native", "grpcio"])
async def test_a_gateway_knows_an_emitter_by_its_certificate_also_after_that_was_replaced(
    client: Any, gateway: str, authority: Authority, worker: Pair, tmp_path: Path
) -> None:
    guest = authority.issue("guest")
    used = put(guest, tmp_path)
    config = GrpcEmitter(
        gateway,
        root_certificates=authority.cert,
        certificate=Certificate(used.cert, used.key),
        client=client,
        timeout=10,
    )
    async with running(config) as emitter:
        with pytest.raises(MisconfiguredError, match="no principal has a certificate of 'localhost'"):
            await refused(emitter)
    replace(worker, used)
    async with running(config) as emitter:
        assert await emitter.emit(batch("b")) == []


async def refused(emitter: Any) -> None:
    """Emit until the gateway's refusal is raised.

    grpcio raises `INTERNAL` instead of the status where it was writing a message when the refusal came.
    """
    while True:
        try:
            await emitter.emit(batch("a"))
        except RetryableError as error:
            if "Internal error from Core" not in str(error):
                raise
        else:
            return


@pytest.mark.parametrize("client", ["native", "grpcio"])
async def test_what_cannot_be_read_holds_everything_and_is_named(client: Any, gateway: str, tmp_path: Path) -> None:
    async with running(GrpcEmitter(gateway, root_certificates=tmp_path / "ca.pem", client=client)) as emitter:
        with pytest.raises((MisconfiguredError, RetryableError), match=r"root_certificates='.*ca.pem': cannot be read"):
            await emitter.emit(batch("a"))
    async with running(GrpcEmitter(gateway, token=Secret(f"file:{tmp_path}/token"), client=client)) as emitter:
        with pytest.raises(MisconfiguredError, match=r"Secret\('file:.*token': \*\*\*\): cannot be read"):
            await emitter.emit(batch("a"))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_gateway_knows_an_otlp_emitter_by_its_certificate(
    protocol: str, authority: Authority, server: Pair, worker: Pair, tmp_path: Path
) -> None:
    guest = authority.issue("guest")
    used = put(guest, tmp_path)
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)
    hub = Hub(runtime="inline").emitter(lambda batch: None, name="nothing")
    hub.security(tls=Tls(server.cert, server.key, client_ca=authority.cert), tokens=path)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        address = pipeline.address if protocol == "grpc" else pipeline.http_address
        own = Certificate(used.cert, used.key)
        config = OtlpEmitter(f"https://{address}", protocol=protocol, root_certificates=authority.cert, certificate=own)
        async with running(config) as emitter:
            with pytest.raises(MisconfiguredError, match="no principal has a certificate of 'localhost'"):
                await emitter.emit(batch("a"))
        replace(worker, used)
        async with running(config) as emitter:
            assert await emitter.emit(batch("b")) == []
        async with running(OtlpEmitter(f"https://{address}", protocol=protocol)) as emitter:
            with pytest.raises((MisconfiguredError, RetryableError)):
                await emitter.emit(batch("c"))


class Hook:
    """Keep the headers and bodies of what is posted."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response()


@asynccontextmanager
async def hook(context: ssl.SSLContext | None = None) -> AsyncIterator[Hook]:
    found = Hook()
    app = web.Application()
    app.router.add_post("/hook", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    found.url = f"{'http' if context is None else 'https'}://localhost:{runner.addresses[0][1]}/hook"
    yield found
    await runner.cleanup()


async def test_a_webhook_shows_its_certificate_and_checks_that_of_the_server(
    authority: Authority, server: Pair, worker: Pair
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.cert))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(server.cert, server.key)
    async with hook(context) as found:
        own = Certificate(worker.cert, worker.key)
        async with running(WebhookEmitter(found.url, root_certificates=authority.cert, certificate=own)) as emitter:
            assert await emitter.emit(batch("a")) == []
        async with running(WebhookEmitter(found.url, root_certificates=authority.cert)) as emitter:
            with pytest.raises(RetryableError):
                await emitter.emit(batch("b"))
        async with running(WebhookEmitter(found.url, certificate=own)) as emitter:
            with pytest.raises(MisconfiguredError, match="CertificateError"):
                await emitter.emit(batch("c"))
    assert len(found.requests) == 1


async def test_secrets_of_a_webhook_are_read_for_each_request(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    async with hook() as found:
        url = tmp_path / "url"
        url.write_text(found.url)
        config = WebhookEmitter(
            Secret(f"file:{url}"), token=Secret(f"file:{token}"), headers={"X-Key": Secret(f"file:{token}")}
        )
        async with running(config) as emitter:
            await emitter.emit(batch("a"))
            token.write_text("two\n")
            await emitter.emit(batch("b"))
            token.unlink()
            with pytest.raises(MisconfiguredError, match="cannot be read"):
                await emitter.emit(batch("c"))
    sent = [(headers["authorization"], headers["x-key"]) for headers, _ in found.requests]
    assert sent == [("Bearer one", "one"), ("Bearer two", "two")]


@pytest.mark.parametrize("style", ["github", "stripe", "slack"])
async def test_a_signed_webhook_is_what_our_own_verifier_takes(style: str) -> None:
    async with hook() as found, running(WebhookEmitter(found.url, secret="s3cret", signature=style)) as emitter:
        await emitter.emit(batch("a"))
    ((headers, body),) = found.requests
    verifier: Any = getattr(HmacVerifier, style)(["old", "s3cret"], JsonIngestor()).build(SystemClock())
    (event,) = verifier.ingest(body, IngestContext("hook", headers=headers))
    assert event.id == "a"
    wrong: Any = getattr(HmacVerifier, style)("other", JsonIngestor()).build(SystemClock())
    with pytest.raises(Exception, match="is not that of this body"):
        wrong.ingest(body, IngestContext("hook", headers=headers))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "two\nlines"}, "token must be printable ASCII, or a polku.Secret"),
        ({"secret": 5}, "secret must be printable ASCII, or a polku.Secret"),
        ({"signature": "own"}, "signature='own'"),
        ({"root_certificates": 5}, "root_certificates must be"),
        ({"certificate": "own.pem"}, "certificate must be"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match="WebhookEmitter") as caught:
        WebhookEmitter("http://localhost/hook", **options)
    assert message in str(caught.value)


class Forwarder:
    """A proxy that answers each request itself, and remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        status = b"502 Bad Gateway" if self.asked[-1].startswith(b"CONNECT") else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


async def test_webhooks_go_through_the_proxy_that_is_named_and_errors_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Forwarder()
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening, hook() as found:
        monkeypatch.setenv("HTTP_PROXY", f"http://us:s%40fe@{address}")
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        async with running(WebhookEmitter("http://partner.invalid/hook")) as emitter:
            assert await emitter.emit(batch("a")) == []
        assert proxy.asked[0].startswith(b"POST http://partner.invalid/hook HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dXM6c0BmZQ==\r\n" in proxy.asked[0]
        async with running(WebhookEmitter("https://partner.invalid/hook")) as emitter:
            with pytest.raises(RetryableError, match=rf"https://partner.invalid \(by proxy {address}\): .*502"):
                await emitter.emit(batch("b"))
        async with running(WebhookEmitter(found.url)) as emitter:
            assert await emitter.emit(batch("c")) == []
        assert (len(proxy.asked), len(found.requests)) == (2, 1)
        monkeypatch.setenv("HTTP_PROXY", "socks5://somewhere")
        async with running(WebhookEmitter("http://partner.invalid/hook")) as emitter:
            with pytest.raises(MisconfiguredError, match="HTTP_PROXY: write http://host:port"):
                await emitter.emit(batch("d"))
