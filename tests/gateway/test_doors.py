"""An address that cannot be opened is refused by name, with the way out."""

from __future__ import annotations

import socket

import pytest

from polku import Hub
from polku.errors import SettingError
from polku.gateway.addresses import cannot_open, check_free


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingError, match=f"grpc_addr='{address}': .*in use"):
            check_free("grpc_addr", address)
    check_free("grpc_addr", address)


def test_the_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingError, match=r"http_addr='203.0.113.1:80': is no address of .*; use 0.0.0.0:80"):
        check_free("http_addr", "203.0.113.1:80")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("203.0.113.1:80", "is no address of"),
        ("nowhere.invalid:5000", ".*use an address of"),
        ("unix:/nowhere/at/all", r"cannot be opened \(why\)"),
        ("127.0.0.1:0", r"cannot be opened \(why\)"),
        ("127.0.0.1:99999", r"cannot be opened \(why\)"),
    ],
)
def test_a_server_that_does_not_say_why_is_explained(address: str, reason: str) -> None:
    with pytest.raises(SettingError, match=f"grpc_addr='{address}': {reason}"):
        raise cannot_open("grpc_addr", address, "why")


@pytest.mark.parametrize("address", [None, "unix:/run/polku", "127.0.0.1:0"])
def test_what_is_surely_free_is_not_tried(address: str | None) -> None:
    check_free("grpc_addr", address)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("door", ["grpc_addr", "http_addr"])
def test_the_address_of_all_interfaces_takes_both_families(door: str) -> None:
    with Hub(runtime="inline").emitter(lambda batch: None, name="nothing").start(**{door: "[::]:0"}) as pipeline:
        address = pipeline.address if door == "grpc_addr" else pipeline.http_address
        port = int(str(address).rpartition(":")[2])
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=30).close()
