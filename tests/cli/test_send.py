"""`polku send`: what it reads, sends, counts and shows."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.server import Server, polku, polku_here
from tests.support.terminal import shown_by


def test_send_reads_ndjson_and_counts_what_is_refused(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text('{"id": "a"}\n{"id": "b"}\n{broken\n{"id": "d"}\n')
    sent = polku("send", "--to", server.address, str(file))
    assert sent.returncode == 1
    assert "3 accepted, 1 refused" in sent.stderr
    assert "line 3" in sent.stderr
    piped = polku("send", "--to", server.address, "-", text='{"id": "x"}\n' * 1)
    assert piped.returncode == 0
    assert "1 accepted" in piped.stderr


def test_send_shows_its_progress_on_a_terminal(server: Server, tmp_path: Path) -> None:
    records = tmp_path / "many.ndjson"
    records.write_text("".join(f'{{"event_type": "t", "id": "tty-{number}"}}\n' for number in range(500)))
    shown = shown_by("send", "--to", server.address, str(records))
    assert "500/500, " in shown
    assert "━" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "x", "--to", "foo"], "--to='foo': write HOST:PORT"),
        (["--type", "x", "--root-certificates", "x"], "--root-certificates='x': is for TLS: write --to https://local"),
        (["--type", "x", "--to", "https://h:1", "--key", "k"], "--key='k': give --certificate and --key together"),
        (
            ["--type", "x", "--to", "https://h:1", "--root-certificates", "/none"],
            "--root-certificates='/none': cannot be read: No such file",
        ),
        ([], "FILE='': give a file"),
        (["-", "--type", "x"], "FILE='-': --type='x' is given too"),
        (["--type", "x", "--severity", "loud"], "--severity='loud': is not known; choose one of"),
    ],
)
def test_send_names_what_is_wrong_with_its_options(arguments: list[str], message: str) -> None:
    sent = polku_here("send", *arguments)
    assert sent.returncode == 2
    assert message in sent.stderr


def test_send_takes_an_address_as_emitters_do(server: Server) -> None:
    assert polku("send", "--to", f"http://{server.address}", "--type", "x").returncode == 0


def test_send_says_when_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    sent = polku("send", "--to", f"127.0.0.1:{port}", "--type", "x")
    assert sent.returncode == 1
    assert f"127.0.0.1:{port}" in sent.stderr
