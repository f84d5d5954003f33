"""Where a plugin that registers may be called back, and by which token it may register as what."""

from __future__ import annotations

import asyncio
import socket

import pytest

from polku.emit.grpc.addresses import parse_address
from polku.external.callback import Callback, host_of, locate
from polku.external.caller import Caller
from polku.security.account import Account
from polku.security.rights import Rights
from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PLUGIN_TYPE_INGESTOR, PluginInfo

OWN = "10.1.2.3"
PEERS = {
    "ipv4:10.1.2.3:5000": "10.1.2.3",
    "ipv6:[::1]:5000": "::1",
    "ipv6:%5B::1%5D:5000": "::1",
    "unix:": "",
    "unix:140": "",
}


@pytest.mark.parametrize("peer", PEERS)
def test_the_host_of_a_peer_is_read_as_either_server_writes_it(peer: str) -> None:
    assert host_of(peer) == PEERS[peer]


def located(address: str, caller: str = OWN, *allowed: str) -> tuple[str, str]:
    return asyncio.run(locate(parse_address("Register", address), caller, allowed))


TAKEN = [
    ("10.1.2.3:9001", OWN, (), "10.1.2.3:9001"),
    ("https://10.1.2.3:9001", OWN, (), "10.1.2.3:9001"),
    ("127.0.0.1:9001", "127.0.0.1", (), "127.0.0.1:9001"),
    ("127.0.0.1:9001", "::1", (), "127.0.0.1:9001"),
    ("127.0.0.1:9001", "", (), "127.0.0.1:9001"),
    ("10.9.9.9:9001", OWN, ("10.0.0.0/8",), "10.9.9.9:9001"),
    ("10.9.9.9:9001", OWN, ("192.0.2.1", "10.9.9.9"), "10.9.9.9:9001"),
    ("10.1.2.3:9001", "::ffff:10.1.2.3", (), "10.1.2.3:9001"),
]


@pytest.mark.parametrize(("address", "caller", "allowed", "target"), TAKEN)
def test_a_plugin_is_where_its_call_came_from_or_where_it_may_be(
    address: str, caller: str, allowed: tuple[str, ...], target: str
) -> None:
    assert located(address, caller, *allowed) == (target, "")


REFUSED = [
    ("10.9.9.9:9001", OWN, ()),
    ("127.0.0.1:9001", OWN, ()),
    ("127.0.0.1:9001", OWN, ("10.0.0.0/8", "*.internal")),
    ("unix:/run/x", "", ("*",)),
    ("169.254.169.254:80", "169.254.169.254", ("0.0.0.0/0", "*")),
    ("[fe80::1]:80", "fe80::1", ("::/0", "*")),
    ("[::ffff:169.254.169.254]:80", OWN, ("0.0.0.0/0", "*")),
    ("100.100.100.200:80", OWN, ("*",)),
    ("0.0.0.0:9001", "0.0.0.0", ("*",)),
    ("224.0.0.1:9001", OWN, ("*",)),
]


@pytest.mark.parametrize(("address", "caller", "allowed"), REFUSED)
def test_a_plugin_is_nowhere_else(address: str, caller: str, allowed: tuple[str, ...]) -> None:
    target, fault = located(address, caller, *allowed)
    assert target == ""
    assert fault


class Names:
    """Resolve names as the test says, and fail for others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **known: str) -> None:
        async def getaddrinfo(_: object, host: str, *args: object, **options: object) -> list[tuple[object, ...]]:
            if host not in known:
                raise socket.gaierror("no such name")
            return [(socket.AF_INET, None, None, "", (known[host], 0))]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


def test_names_are_looked_up_and_what_was_looked_at_is_what_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, own=OWN, other="10.9.9.9", metadata="169.254.169.254")
    assert located("own:9001") == (f"{OWN}:9001", "")
    assert located("https://own:9001") == ("own:9001", "")  # the certificate is that of the name
    assert "is not where the call came from" in located("other:9001")[1]
    assert located("other:9001", OWN, "oth*") == ("10.9.9.9:9001", "")
    assert "no plugin may have" in located("metadata:80", OWN, "*")[1]
    assert "is not known" in located("nobody:80", OWN, "*")[1]


def test_the_token_of_a_plugin_is_shown_nowhere() -> None:
    assert "secret" not in repr(Callback("a:1", "secret"))


def caller(*plugins: str, sources: tuple[str, ...] = ("*",)) -> Caller:
    return Caller(account=Account("agents", Rights(plugins=plugins, sources=sources)))


def test_a_principal_registers_as_what_it_may_and_for_its_sources() -> None:
    ingestor = PluginInfo(name="parser", type=PLUGIN_TYPE_INGESTOR, sources=["agent-1"])
    assert caller("pars*", sources=("agent-*",)).fault(ingestor) == ""
    assert "source='agent-1' is not among its sources" in caller("parser", sources=("billing",)).fault(ingestor)
    assert "plugin 'parser' is not among its plugins; allowed are 'other'" in caller("other").fault(ingestor)
    assert "allowed are none" in caller().fault(ingestor)
    assert Caller().fault(ingestor) == ""


def test_the_name_that_routes_lead_to_counts_too() -> None:
    emitter = PluginInfo(name="store", type=PLUGIN_TYPE_EMITTER, emitter_name="audit")
    assert "plugin 'audit'" in caller("store").fault(emitter)
    assert caller("store", "audit").fault(emitter) == ""
