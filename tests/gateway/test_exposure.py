"""What is said of addresses that others reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku import Hub, SettingError, Tls
from polku.gateway.addresses import Doors
from polku.gateway.exposure import check_exposure, exposure, insecure_of_environment
from polku.host import is_local


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:gateway.sock", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        (":1", False),
        ("10.0.0.1:1", False),
        ("gateway.example:1", False),
    ],
)
def test_loopback_is_local(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_an_open_address_is_said_in_one_line_with_the_fix() -> None:
    text = exposure(Doors("0.0.0.0:50051", "127.0.0.1:80"))
    assert text.startswith("grpc 0.0.0.0:50051 is open to others without TLS and without authentication: use 127.0.0.1")
    assert "\n" not in text
    assert exposure(Doors("127.0.0.1:50051", "localhost:80")) == ""


def test_what_is_missing_is_named() -> None:
    tls, required = Tls("c", "k"), Tls("c", "k", client_ca="ca")
    assert exposure(Doors("0.0.0.0:1", tls=tls)).startswith("grpc 0.0.0.0:1 is open to others without authentication:")
    assert exposure(Doors("0.0.0.0:1", tokens="t")).startswith("grpc 0.0.0.0:1 is open to others without TLS:")
    assert exposure(Doors(None, "0.0.0.0:1", "secret")).startswith("http 0.0.0.0:1 is open to others without TLS:")
    assert exposure(Doors("0.0.0.0:1", tls=tls, tokens="t")) == exposure(Doors("0.0.0.0:1", tls=required)) == ""
    optional = Tls("c", "k", client_ca="ca", client_auth="optional")
    assert "without authentication" in exposure(Doors("0.0.0.0:1", tls=optional))


def test_the_admin_address_counts_too() -> None:
    tls = Tls("c", "k")
    doors = Doors("0.0.0.0:1", tls=tls, tokens="t", admin_addr="0.0.0.0:2", require=True)
    assert exposure(doors).startswith(
        "admin 0.0.0.0:2 is open to others without TLS: use 127.0.0.1, unix:PATH or https:"
    )
    for near in ("127.0.0.1:2", "unix:admin.sock"):
        assert exposure(Doors("0.0.0.0:1", tls=tls, tokens="t", admin_addr=near)) == ""
    hub = Hub(runtime="inline").emitter(print).security(require=True)
    with pytest.raises(SettingError, match=r"'0\.0\.0\.0:0': admin 0\.0\.0\.0:0 is open to others without TLS"):
        hub.start(admin_addr="0.0.0.0:0", admin_token="t")


def test_required_security_refuses_to_start(tmp_path: Path) -> None:
    hub = Hub(runtime="inline").emitter(print).security(require=True)
    with pytest.raises(SettingError, match=r"security\(require=True\)='0\.0\.0\.0:0': grpc 0\.0\.0\.0:0 is open to"):
        hub.start(grpc_addr="0.0.0.0:0")
    with hub.start(grpc_addr="127.0.0.1:0") as pipeline:
        assert pipeline.address
    check_exposure(Doors("0.0.0.0:1", require=False))


def test_an_open_address_may_be_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, meant in (("", False), ("0", False), ("1", True), ("true", True)):
        monkeypatch.setenv("POLKU_INSECURE", text)
        assert insecure_of_environment() is meant
    monkeypatch.setenv("POLKU_INSECURE", "perhaps")
    with pytest.raises(SettingError, match="POLKU_INSECURE='perhaps'"):
        insecure_of_environment()


async def test_health_says_it_too() -> None:
    from polku.gateway.gateway import Security

    assert "is open to others" in Security(Doors("0.0.0.0:1"), None, None).complaint
    assert Security(Doors("0.0.0.0:1", insecure=True), None, None).complaint == ""
    assert not Security(Doors("0.0.0.0:1"), None, None).is_broken
