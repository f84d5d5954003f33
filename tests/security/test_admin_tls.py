"""The admin address over TLS: `https://HOST:PORT`, with the gateway's certificate."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from polku import Batch, Hub, Pipeline, SettingError, Tls
from polku.cli.admin_client import AdminAddress
from polku.cli.app import app
from polku.gateway.addresses import Doors
from polku.gateway.exposure import exposure
from polku.monitoring.address import admin_of
from polku.monitoring.run_files import running
from tests.support.authority import Authority, Pair, put, replace

TOKEN = "t0ken"


def partner(batch: Batch) -> None:
    """Take everything."""


def start(tls: Tls, address: str = "https://127.0.0.1:0", token: str | None = TOKEN) -> Pipeline:
    hub = Hub(runtime="inline", name="shown").emitter(partner).security(tls=tls)
    return hub.start(grpc_addr="127.0.0.1:0", admin_addr=address, admin_token=token)


def serial(address: str, authority: Authority) -> int:
    """Return the serial number of the certificate that an address shows."""
    host, _, port = address.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(authority.cert))
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        shown = connection.sock.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)
    finally:
        connection.close()


def test_it_is_asked_over_tls_alone_and_by_those_who_know_the_certificate(
    authority: Authority, server: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A client CA is for those who send events: readers have the token.
    with start(Tls(server.cert, server.key, client_ca=authority.cert)) as pipeline:
        address = str(pipeline.admin_address)
        assert address.startswith("https://127.0.0.1:")
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            AdminAddress(address, TOKEN).fetch("/health")
        monkeypatch.setenv("POLKU_ADMIN_ROOT_CERTIFICATES", str(authority.cert))
        status, body = AdminAddress(address, TOKEN).fetch("/health")
        assert (status, json.loads(body)["ready"]) == (200, True)
        with pytest.raises(OSError, match="401"):
            AdminAddress(address, "other").fetch("/health")
        with pytest.raises((OSError, http.client.HTTPException)):
            AdminAddress(address.replace("https", "http"), TOKEN).fetch("/health")
        monkeypatch.setenv("POLKU_ADMIN_ROOT_CERTIFICATES", str(tmp_path / "none.pem"))
        with pytest.raises(SettingError, match=r"POLKU_ADMIN_ROOT_CERTIFICATES=.*none.pem.*: cannot be used"):
            AdminAddress(address, TOKEN).fetch("/health")


def test_commands_of_its_user_know_it_by_its_certificate(server: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLKU_ADMIN_ROOT_CERTIFICATES", raising=False)
    with start(Tls(server.cert, server.key)) as pipeline:
        address = str(pipeline.admin_address)
        (entry,) = [one for one in running() if one.admin == address]
        assert entry.certificate == str(server.cert)
        shown = CliRunner().invoke(app.group, ["health", "--to", address], env={"POLKU_ADMIN_TOKEN": TOKEN})
        assert shown.exit_code == 0, shown.output
        assert "ready" in shown.output or "healthy" in shown.output


def test_a_certificate_that_is_replaced_is_shown_to_who_connects_then(
    authority: Authority, server: Pair, tmp_path: Path
) -> None:
    used = put(server, tmp_path)
    with start(Tls(used.cert, used.key)) as pipeline:
        address = str(pipeline.admin_address)
        before = serial(address, authority)
        replace(authority.issue("renewed"), used)
        deadline = time.monotonic() + 30
        while serial(address, authority) == before:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_what_cannot_be_is_refused_by_name(server: Pair) -> None:
    with pytest.raises(SettingError, match=r"https://127\.0\.0\.1:0.*needs a certificate: set POLKU_TLS_CERT"):
        Hub(runtime="inline").emitter(partner).start(admin_addr="https://127.0.0.1:0")
    tls = Tls(server.cert, server.key)
    with pytest.raises(SettingError, match="POLKU_ADMIN_TOKEN"):
        admin_of("https://0.0.0.0:0", None, tls)


def test_it_is_no_open_address_with_tls_and_token(server: Pair) -> None:
    tls = Tls(server.cert, server.key)
    assert exposure(Doors("127.0.0.1:1", tls=tls, tokens="t", admin_addr="https://0.0.0.0:2")) == ""
    assert "admin 0.0.0.0:2 is open to others without TLS" in exposure(Doors("127.0.0.1:1", admin_addr="0.0.0.0:2"))
