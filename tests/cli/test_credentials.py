"""What commands show to an address that asks for certificates and a token: the same options, in real processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from polku.security.token_file import file_lines
from tests.support.authority import Authority, Pair
from tests.support.server import Server, polku, polku_here

HUB = """
from polku import Hub

def partner(batch):
    for event in batch:
        if event.event_type == "odd":
            raise ValueError("unknown")

hub = Hub(runtime="inline", name="guarded").emitter(partner).dead_letters({letters!r})
"""


class Place(NamedTuple):
    """A pipeline whose admin address and gateway ask for certificates of two authorities, and for tokens."""

    admin: str
    gateway: str
    folder: Path
    operators: Authority
    clients: Authority

    def options(self, pair: Pair | None = None, token: str = "admin") -> list[str]:
        """Return what a command shows."""
        options = ["--root-certificates", str(self.clients.cert), "--token-file", str(self.folder / token)]
        return options + (["--certificate", str(pair.cert), "--key", str(pair.key)] if pair is not None else [])

    def ask(self, *command: str, pair: Pair | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command from elsewhere: it does not see which pipelines run here."""
        arguments = [*command, "--to", self.admin, *self.options(pair)]
        return polku(*arguments, XDG_RUNTIME_DIR=str(self.folder / "elsewhere"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("guarded")
    clients, operators = Authority(folder / "clients"), Authority(folder / "operators", "operators")
    (folder / "elsewhere").mkdir(mode=0o700)
    (folder / "hub.py").write_text(HUB.format(letters=str(folder / "letters.db")))
    for name, token in (("admin", "admin-secret"), ("agent", "agent-secret"), ("wrong", "other")):
        (folder / name).write_text(f"{token}\n")
    (folder / "tokens.toml").write_text(file_lines("agents", "agent-secret", {}, None))
    pair = clients.issue()
    addresses = ["--grpc-addr", "127.0.0.1:0", "--admin-addr", "https://127.0.0.1:0"]
    files = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-client-ca", str(clients.cert)]
    files += ["--tls-admin-client-ca", str(operators.cert), "--tokens", str(folder / "tokens.toml")]
    secret = str(folder / "admin")
    server = Server(folder, "run", str(folder / "hub.py"), *addresses, *files, POLKU_ADMIN_TOKEN_FILE=secret)
    admin = server.wait_for(server.err, r"admin on (https://\S+)")[1]
    yield Place(admin, f"https://{server.address}", folder, operators, clients)
    assert server.stop() == 0


@pytest.fixture(scope="module")
def me(place: Place) -> Pair:
    return place.operators.issue("me")


@pytest.fixture(scope="module")
def letter(place: Place) -> str:
    """Send an event that becomes a dead letter, by a client of the gateway."""
    options = place.options(place.clients.issue("agent"), "agent")
    done = polku("send", "--to", place.gateway, *options, "--type", "odd", "--id", "dead-1")
    assert (done.returncode, done.stderr.strip()) == (0, "1 accepted, 0 refused")
    return "dead-1"


COMMANDS = {
    "health": ["health"],
    "top": ["top", "--count", "1"],
    "tap": ["tap", "--duration-ms", "100"],
    "record": ["record", "--out", "{folder}/recorded", "--seconds", "0.1"],
    "reload": ["reload"],
    "explain": ["explain", "{letter}"],
    "dlq list": ["dlq", "list"],
    "dlq show": ["dlq", "show", "{letter}"],
    "dlq replay": ["dlq", "replay", "{letter}"],
    "dlq drop": ["dlq", "drop", "--all"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_who_shows_a_certificate_and_a_token_is_answered_and_nobody_else(
    place: Place, me: Pair, letter: str, name: str
) -> None:
    command = [part.format(folder=place.folder, letter=letter) for part in COMMANDS[name]]
    stranger = place.ask(*command)
    assert stranger.returncode == 1
    assert "it may ask for a certificate: give one that it knows with --certificate and --key" in stranger.stderr
    done = place.ask(*command, pair=me)
    assert done.returncode == 0, done.stderr
    assert "polku: https" not in done.stderr


def test_the_certificate_of_a_client_lets_nobody_look(place: Place) -> None:
    done = place.ask("health", pair=place.clients.issue("agent-2"))
    assert done.returncode == 1
    assert "no health to be had" in done.stderr


def test_a_wrong_token_and_a_wrong_authority_are_named(place: Place, me: Pair) -> None:
    mine = ["--certificate", str(me.cert), "--key", str(me.key), "--to", place.admin]
    roots = ["--root-certificates", str(place.clients.cert)]
    wrong = polku("health", *mine, *roots, "--token-file", str(place.folder / "wrong"))
    assert wrong.returncode == 1
    assert "401" in wrong.stderr
    token = ["--token-file", str(place.folder / "admin")]
    other = polku("health", *mine, "--root-certificates", str(place.operators.cert), *token)
    assert other.returncode == 1
    assert "certificate verify failed" in other.stderr


def test_variables_do_in_place_of_options_and_its_own_user_needs_the_certificate_alone(place: Place, me: Pair) -> None:
    pair = {"POLKU_ADMIN_CERTIFICATE": str(me.cert), "POLKU_ADMIN_KEY": str(me.key)}
    here = polku("health", "--to", "guarded", **pair)
    assert here.returncode == 0, here.stderr
    listed = polku("ps", "--json", **pair)
    lines = map(json.loads, listed.stdout.splitlines())
    states = [one["state"] for one in lines if one["name"] == "guarded"]
    assert [state.partition(";")[0] for state in states] == ["ready"]
    elsewhere = polku(
        "health",
        POLKU_ADMIN_ADDR=place.admin,
        POLKU_ADMIN_ROOT_CERTIFICATES=str(place.clients.cert),
        POLKU_ADMIN_TOKEN_FILE=str(place.folder / "admin"),
        XDG_RUNTIME_DIR=str(place.folder / "elsewhere"),
        **pair,
    )
    assert elsewhere.returncode == 0, elsewhere.stderr


def test_what_does_not_fit_is_refused_by_name(place: Place, me: Pair) -> None:
    for command in ("health", "send"):
        more = ["--type", "t"] if command == "send" else []
        plain = polku_here(command, *more, "--to", "127.0.0.1:1", "--root-certificates", str(me.cert))
        assert plain.returncode == 2
        assert "--root-certificates" in plain.stderr
        assert "is for TLS: write --to https://127.0.0.1:1" in plain.stderr
        half = polku_here(command, *more, "--to", "https://127.0.0.1:1", "--key", str(me.key))
        assert half.returncode == 2
        assert "give --certificate and --key together" in half.stderr
    bad = polku_here("health", "--to", place.admin, "--certificate", str(me.cert), "--key", str(place.operators.cert))
    assert bad.returncode == 2
    assert "--certificate" in bad.stderr
    assert "cannot be used" in bad.stderr
