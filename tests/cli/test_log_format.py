"""`POLKU_LOG_FORMAT=json`, as a collector of logs reads it: real processes on both runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from polku import Batch, Failure, Hub, new_event
from polku.cli.app import app
from tests.support.server import ON_BARE_RAY, Server, polku

PIPELINE = """
from polku import Hub, StdoutEmitter, Transform
def crash(event):
    print("a line of user code")
    raise ValueError("odd \\x1b[2J\\nforged")
hub = Hub().middleware(Transform(crash)).emitter(StdoutEmitter())
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"


# How the lines of workers become objects is in tests/actors/test_worker_log.py.
@pytest.mark.parametrize("runtime", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_each_line_is_an_object(runtime: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if runtime == "ray":
        request.getfixturevalue("ray_session")
    file = tmp_path / "hub.py"
    file.write_text(PIPELINE)
    options = ["--runtime", runtime, "--grpc-addr", "127.0.0.1:0", "--admin-addr", "off"]
    server = Server(
        tmp_path / "run",
        *("run", str(file), *options),
        command=ON_BARE_RAY if runtime == "ray" else (),
        BARE_LOGS="1",
        POLKU_LOG_FORMAT="json",
        POLKU_LOG_LEVEL="info",
        RAY_ADDRESS="",
    )
    try:
        entry = f"traceparent=00-{TRACE}-b7ad6b7169203331-01"
        sent = polku("send", "--to", server.address, "--type", "order", "--id", "x\x1b[0m", "--metadata", entry)
        assert sent.stderr.startswith("x\\x1b[0m: MIDDLEWARE_ERROR")
        server.wait_for(server.err, "dead letter")
        if runtime == "ray":
            server.wait_for(server.err, "a line of user code")
    finally:
        assert server.stop() == 0
    text = server.err.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "\x1b" not in text
    (letter,) = (line for line in lines if line["message"].startswith("dead letter"))
    assert letter["event_id"] == "x\\x1b[0m"
    assert (letter["trace_id"], letter["pipeline"], letter["level"]) == (TRACE, "polku", "warning")
    assert letter.get("component") == ("stage-1" if runtime == "ray" else None)
    messages = [line["message"] for line in lines]
    assert "draining" in messages
    assert ("a line of user code" in messages) == (runtime == "ray")  # inline it is standard output's


def test_a_list_of_dead_letters_shows_no_control_characters_of_strangers(tmp_path: Path) -> None:
    def partner(batch: Batch) -> list[Failure]:
        return [Failure(event.id, "no\x1b[2J\nforged", retryable=False) for event in batch]

    path = tmp_path / "dead.db"
    with Hub(runtime="inline").dead_letters(path).emitter(partner).start() as pipeline:
        pipeline.sender().send(new_event("order", id="x\x1b[0m\u202e\x7f", source="shop"))
    for options in ((), ("--json",)):
        done = CliRunner().invoke(app.group, ["dlq", "list", str(path), *options])
        assert done.exit_code == 0
        (line,) = done.stdout.splitlines()
        assert line.isprintable()
        assert "forged" in line
