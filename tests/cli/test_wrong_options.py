"""A wrong option or variable names itself, its value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.programs import DOWN, PIPELINE
from tests.support.server import Server, polku, polku_here


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("POLKU_GRPC_ADDR", "nowhere", "HOST:PORT"),
        ("POLKU_GRPC_ADDR", "host:99999", "65535"),
        ("POLKU_HTTP_ADDR", "8080", "HOST:PORT"),
        ("POLKU_HTTP_ADDR", "127.0.0.1:99999", "65535"),
        ("POLKU_BUFFER_CAPACITY", "many", "whole number"),
        ("POLKU_BUFFER_CAPACITY", "0", "at least 1"),
        ("POLKU_LOG_LEVEL", "loud", "debug, info, warn, error"),
        ("POLKU_RUNTIME", "java", "ray, inline"),
        ("POLKU_LANES", "per node", "a whole number from 1 to 1000, or per-node"),
        ("POLKU_EMIT_GRPC_ENDPOINTS", "http://host", "port"),
        ("POLKU_EMIT_AHTI_ENDPOINT", "ftp://host:1", "http://host:port"),
    ],
)
def test_a_wrong_variable_names_itself_its_value_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    result = polku_here("serve", **{"POLKU_RUNTIME": "inline", name: value})
    assert result.returncode == 2
    assert f"{name}={value!r}" in result.stderr
    assert allowed in result.stderr
    assert result.stdout == ""


def test_a_wrong_option_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    for arguments, named in (
        (["run", str(file), "--runtime", "java"], "--runtime='java'"),
        (["run", str(file), "--grpc-addr", "nowhere"], "--grpc-addr='nowhere'"),
        (["run", str(file), "--http-addr", "nowhere"], "--http-addr='nowhere'"),
        (["run", str(tmp_path / "absent.py")], "absent.py"),
        (["run", f"{file}:broken"], "no Hub named 'broken'"),
        (["send", "--type", "x", "--metadata", "novalue"], "--metadata='novalue'"),
    ):
        result = polku_here(*arguments)
        assert result.returncode == 2, arguments
        assert named in result.stderr


@pytest.mark.parametrize(
    "command", [("dlq", "list", "x.dead"), ("dlq", "replay", "x.dead", "--all"), ("explain", "id", "--journal", "x")]
)
def test_what_is_for_an_address_is_refused_where_a_file_is_looked_into(command: tuple[str, ...]) -> None:
    result = polku_here(*command, "--token-file", "secret")
    assert result.returncode == 2
    file = "x" if command[0] == "explain" else "x.dead"
    assert f"--token-file='secret': is for an address, and {file} is a file: leave it out" in result.stderr


def test_a_port_in_use_is_named_with_status_2(server: Server) -> None:
    result = polku("serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR=server.address)
    assert result.returncode == 2
    assert server.address in result.stderr


def test_an_http_port_in_use_is_named_with_status_2(server: Server) -> None:
    variables = {"POLKU_RUNTIME": "inline", "POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_HTTP_ADDR": server.address}
    result = polku("serve", **variables)
    assert result.returncode == 2
    assert f"http_addr={server.address!r}" in result.stderr


def test_a_wrong_token_is_named_and_not_shown() -> None:
    result = polku("serve", POLKU_RUNTIME="inline", POLKU_HTTP_TOKEN="se cret")
    assert result.returncode == 2
    assert "POLKU_HTTP_TOKEN=" in result.stderr
    assert "bearer token" in result.stderr
    assert "cret" not in result.stderr


def test_an_unknown_variable_is_pointed_out(tmp_path: Path) -> None:
    server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0", POLKU_BUFER_CAPACITY="5")
    assert server.stop() == 0
    assert "POLKU_BUFER_CAPACITY is not a setting; did you mean POLKU_BUFFER_CAPACITY?" in server.err.read_text()


@pytest.mark.parametrize("code", ["import helper_that_raises", "hub = ("], ids=["raises", "syntax"])
def test_the_traceback_of_a_file_shows_the_users_code_alone(code: str, tmp_path: Path) -> None:
    (tmp_path / "helper_that_raises.py").write_text("def deep():\n    return {}['key']\ndeep()\n")
    file = tmp_path / "pipeline.py"
    file.write_text(f"{code}\n")
    failed = polku("validate", f"{file}:hub")
    assert failed.returncode == 2
    lines = failed.stderr.splitlines()
    frames = [line for line in lines if line.strip().startswith("File ")]
    assert f'"{file}", line 1' in frames[0]
    assert not any("polku/" in frame for frame in frames)
    raised = f"SyntaxError while it was run (line 1 of {file}): '(' was never closed"
    if "hub" not in code:
        raised = f"KeyError while it was run (line 2 of {tmp_path / 'helper_that_raises.py'}): 'key'"
    assert lines[-1].startswith(f"polku: FILE='{file}:hub': raised {raised}")


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_wrong_time_for_the_drain_is_named(value: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(DOWN)
    for result, name in (
        (polku_here("run", f"{file}:at_once", "--runtime", "inline", f"--drain={value}"), "--drain"),
        (polku_here("run", f"{file}:at_once", "--runtime", "inline", POLKU_DRAIN_SECONDS=value), "POLKU_DRAIN_SECONDS"),
    ):
        assert result.returncode == 2
        assert f"{name}={value!r}: write a number of seconds, 0 or more" in result.stderr
