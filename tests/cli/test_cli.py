"""The command line, as a person at a terminal uses it: real processes, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from polku import __version__
from polku.ahti.v1.events_pb2 import EventType
from polku.testing import AhtiServer
from tests.external.test_ingest import eventually
from tests.gateway.http_client import post
from tests.support.authority import Authority
from tests.support.server import POLKU, Server, environment, polku, polku_here

PIPELINE = """
from polku import Filter, Hub, StdoutEmitter
hub = Hub().middleware(Filter(lambda event: event.event_type != "noise")).emitter(StdoutEmitter())
other = Hub().emitter(StdoutEmitter(), name="second").emitter(StdoutEmitter("compact"))
broken = 5
"""


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def runtime(request: pytest.FixtureRequest) -> str:
    """Name the runtime; Ray is that of the tests, which programs join."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0")
    yield server
    server.stop(signal.SIGKILL)


def test_version() -> None:
    assert polku("--version").stdout == f"polku {__version__}\n"


def test_serve_prints_events_and_nothing_else_on_standard_output(server: Server) -> None:
    sent = polku("send", "--to", server.address, "--type", "user.login", "--id", "evt-001", "--metadata", "k=v")
    assert sent.returncode == 0, sent.stderr
    assert "1 accepted, 0 refused" in sent.stderr
    server.wait_for(server.out, "evt-001")
    assert server.stop() == 0
    (line,) = server.out.read_text().splitlines()
    event = json.loads(line)
    assert (event["id"], event["event_type"], event["metadata"]) == ("evt-001", "user.login", {"k": "v"})
    assert "1 delivered" in server.err.read_text()


def test_serve_takes_its_certificate_from_options_and_variables(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    pair = authority.issue()
    variables = {
        "POLKU_RUNTIME": "inline",
        "POLKU_GRPC_ADDR": "127.0.0.1:0",
        "POLKU_HTTP_ADDR": "127.0.0.1:0",
        "POLKU_TLS_KEY": str(pair.key),
    }
    server = Server(tmp_path / "secure", "serve", "--tls-cert", str(pair.cert), **variables)
    try:
        assert "(TLS, runtime inline)" in server.err.read_text()
        trusting = ssl.create_default_context(cafile=str(authority.cert))
        url = f"https://{server.http_address}/health"
        assert urllib.request.urlopen(url, context=trusting, timeout=30).status == 200
        options = ["--to", f"https://{server.address}", "--root-certificates", str(authority.cert)]
        sent = polku("send", "--type", "secret", *options)
        assert (sent.returncode, "1 accepted" in sent.stderr) == (0, True), sent.stderr
    finally:
        assert server.stop() == 0
    refused = polku("serve", **variables)
    assert refused.returncode == 2
    assert "POLKU_TLS_CERT='': is missing: name the PEM file of the server's certificate" in refused.stderr


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="there is no /proc")
def test_serve_uses_the_descriptors_that_it_may_have(server: Server) -> None:
    lines = Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
    (soft, hard) = next(line.split()[3:5] for line in lines if line.startswith("Max open files"))
    assert int(soft) == min(65_536, int(hard)) or int(soft) > 65_536


def test_validate_reads_the_files_of_the_certificate(tmp_path: Path) -> None:
    pair, other = Authority(tmp_path, "one").issue(), Authority(tmp_path, "two").issue()
    for key, status in ((pair.key, 0), (other.key, 1)):
        file = tmp_path / f"pipeline_{status}.py"  # one name in one second could be the file that is compiled already
        tls = f"Tls({str(pair.cert)!r}, {str(key)!r})"
        file.write_text(f"from polku import *\nhub = Hub().security(tls={tls}).emitter(StdoutEmitter())\n")
        done = polku_here("validate", str(file), "--runtime", "inline")
        assert done.returncode == status, done.stderr
    ended = Authority(tmp_path, "three").issue(days=-1)
    file = tmp_path / "pipeline_late.py"
    tls = f"Tls({str(ended.cert)!r}, {str(ended.key)!r})"
    file.write_text(f"from polku import *\nhub = Hub().security(tls={tls}).emitter(StdoutEmitter())\n")
    late = polku_here("validate", str(file), "--runtime", "inline")
    assert (late.returncode, "clients refuse it; renew it" in late.stderr) == (1, True)
    assert f"tls_key='{other.key}': is not the key of {pair.cert}" in done.stderr


def test_serve_forwards_to_other_gateways(server: Server, tmp_path: Path) -> None:
    front = Server(
        tmp_path / "front",
        "serve",
        POLKU_RUNTIME="inline",
        POLKU_GRPC_ADDR="127.0.0.1:0",
        POLKU_EMIT_GRPC_ENDPOINTS=f"http://{server.address}",
    )
    try:
        assert polku("send", "--to", front.address, "--type", "forwarded").returncode == 0
        server.wait_for(server.out, "forwarded")
        assert front.out.read_text() == ""
    finally:
        front.stop()


async def test_serve_sends_to_ahti_beside_other_gateways(server: Server, tmp_path: Path) -> None:
    async with AhtiServer() as ahti:
        variables = {
            "POLKU_RUNTIME": "inline",
            "POLKU_GRPC_ADDR": "127.0.0.1:0",
            "POLKU_EMIT_AHTI_ENDPOINT": f"http://127.0.0.1:1, {ahti.address}",
            "POLKU_EMIT_GRPC_ENDPOINTS": f"http://{server.address}",
        }
        front = await asyncio.to_thread(lambda: Server(tmp_path / "front", "serve", **variables))
        try:
            sent = await asyncio.to_thread(polku, "send", "--to", front.address, "--type", "k8s.pod.created")
            assert sent.returncode == 0, sent.stderr
            await ahti.arrived(1)
            await asyncio.to_thread(server.wait_for, server.out, "k8s.pod.created")
        finally:
            await asyncio.to_thread(front.stop)
        assert front.out.read_text() == ""
    assert [(EventType.Name(event.type), event.subtype) for event in ahti.events] == [("EVENT_TYPE_POD", "pod.created")]


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
    master, slave = os.openpty()
    command = [*POLKU, "send", "--to", server.address, str(records)]
    sent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=environment(TERM="xterm"))
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the terminal is gone with the program
        while text := os.read(master, 65536):
            shown += text
    os.close(master)
    assert sent.wait(120) == 0
    assert sent.stdout is not None
    sent.stdout.close()
    assert b"500/500, " in shown
    assert "━".encode() in shown


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


def test_serve_is_open_for_http_where_the_environment_says_so(tmp_path: Path, runtime: str) -> None:
    addresses = {"POLKU_GRPC_ADDR": "127.0.0.1:0", "POLKU_HTTP_ADDR": "127.0.0.1:0"}
    server = Server(tmp_path, "serve", POLKU_RUNTIME=runtime, POLKU_HTTP_TOKEN="s3cret", **addresses)
    try:
        assert post(server.http_address, b'{"id": "no"}').status == 401
        token = ("-H", "Authorization: Bearer s3cret")
        assert post(server.http_address, b'{"id": "over-http"}', "application/json", *token).ids == ["over-http"]
        assert polku("send", "--to", server.address, "--type", "t", "--id", "over-grpc").returncode == 0
        server.wait_for(server.out, "over-http")
        server.wait_for(server.out, "over-grpc")
        assert server.stop() == 0
        assert "2 delivered" in server.err.read_text()
        assert "s3cret" not in server.err.read_text()
    finally:
        server.stop(signal.SIGKILL)


def test_without_an_http_address_no_http_is_open_and_its_library_stays_out(server: Server) -> None:
    assert server.http_address is None
    mapped = Path(f"/proc/{server.process.pid}/maps")
    if mapped.exists():
        assert "aiohttp" not in mapped.read_text()


def test_an_unknown_variable_is_pointed_out(tmp_path: Path) -> None:
    server = Server(tmp_path, "serve", POLKU_RUNTIME="inline", POLKU_GRPC_ADDR="127.0.0.1:0", POLKU_BUFER_CAPACITY="5")
    assert server.stop() == 0
    assert "POLKU_BUFER_CAPACITY is not a setting; did you mean POLKU_BUFFER_CAPACITY?" in server.err.read_text()


def test_run_takes_a_hub_by_name_and_points_out_a_misspelt_variable(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    arguments = ("run", f"{file}:other", "--runtime", "inline", "--grpc-addr", "127.0.0.1:0")
    server = Server(tmp_path, *arguments, POLKU_HTP_ADDR="127.0.0.1:0", POLKU_OF_THE_PIPELINE="1")
    assert polku("send", "--to", server.address, "--type", "twice").returncode == 0
    server.wait_for(server.out, r"twice[\s\S]*twice")
    assert server.stop(signal.SIGINT) == 0
    assert "POLKU_HTP_ADDR is not a setting; did you mean POLKU_HTTP_ADDR?" in server.err.read_text()
    assert "OF_THE_PIPELINE" not in server.err.read_text()


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


DOWN = """
from polku import BufferStrategy, Hub

class Down:
    name = "down"
    def emit(self, batch):
        raise ConnectionError("nobody is there")

async def hangs(batch):
    import asyncio
    await asyncio.sleep(3600)

memory = Hub().emitter(hangs, name="out")
durable = Hub().buffer_strategy(BufferStrategy.durable("journal")).emitter(Down())
at_once = Hub().emitter(lambda batch: None, name="out")
"""


def run_down(folder: Path, name: str, *arguments: str, **variables: str) -> Server:
    (folder / "pipeline.py").write_text(DOWN.replace('durable("', f'durable("{folder}/'))
    where = ("--runtime", "inline", "--grpc-addr", "127.0.0.1:0")
    return Server(folder, "run", f"{folder}/pipeline.py:{name}", *where, *arguments, **variables)


def send_one(server: Server) -> None:
    assert polku("send", "--to", server.address, "--type", "x").returncode == 0


@pytest.mark.parametrize(("option", "variable"), [("0.2", ""), ("", "0.2")])
def test_a_stop_that_loses_acknowledged_events_says_so_and_ends_with_status_3(
    option: str, variable: str, tmp_path: Path
) -> None:
    arguments = ("--drain", option) if option else ()
    server = run_down(tmp_path, "memory", *arguments, POLKU_DRAIN_SECONDS=variable)
    send_one(server)
    assert server.stop() == 3
    last = server.err.read_text().splitlines()[-1]
    assert last == "polku: acknowledged events are lost: 1 of emitter out; exit status 3"


def test_a_stop_with_a_journal_ends_as_soon_as_only_destinations_that_are_down_are_waited_for(tmp_path: Path) -> None:
    server = run_down(tmp_path, "durable", "--drain", "3600")
    send_one(server)
    assert server.stop() == 0
    assert "0 lost, 1 journaled" in server.err.read_text()


def test_sighup_is_left_alone_where_it_is_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does; programs that are started inherit it
    try:
        ignoring = run_down(tmp_path, "at_once")
    finally:
        signal.signal(signal.SIGHUP, before)
    ignoring.process.send_signal(signal.SIGHUP)
    send_one(ignoring)
    assert "draining" not in ignoring.err.read_text()
    assert ignoring.stop() == 0


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


def test_validate_prints_the_stages_or_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    good = polku_here("validate", str(file))
    assert good.returncode == 0
    assert "stage-1" in good.stdout
    assert "stdout" in good.stdout
    file.write_text(
        "from polku import Hub, Router, StdoutEmitter\n"
        "hub = Hub().middleware(Router().default('nowhere')).emitter(StdoutEmitter())"
    )
    bad = polku_here("validate", str(file))
    assert bad.returncode == 1
    assert "nowhere" in bad.stderr
    file.write_text("raise RuntimeError('while loading')")
    assert "while loading" in polku_here("validate", str(file)).stderr


USERS = """
import functools
from polku import Hub, Resilience

class Store:
    def emit(self, batch):
        pass

def file_of(batch):
    pass

class Ticks:
    name = "ticks"
    async def run(self, open_stream):
        pass

hub = Hub().source(Ticks()).emitter(Store()).emitter(file_of).emitter(lambda batch: None, name="quiet")
hub.emitter(functools.partial(file_of), name="part").emitter(Resilience(Store()), name="sure")
"""


def test_validate_shows_the_users_own_parts_by_their_names_and_alike_in_each_run(tmp_path: Path) -> None:
    file = tmp_path / "users.py"
    file.write_text(USERS)
    first, second = polku("validate", str(file)), polku_here("validate", str(file))
    assert first.stdout == second.stdout
    lines = first.stdout.splitlines()
    for shown in ("source    ticks: Ticks", "emitter   store: Store", "emitter   file_of: file_of"):
        assert shown in lines
    assert "emitter   quiet: lambda" in lines
    assert "emitter   part: file_of" in lines
    assert [line for line in lines if line.startswith("emitter   sure: Resilience(emitter=Store, ")]
    assert "0x" not in first.stdout


WEBHOOK = """
from polku import Hub, WebhookEmitter
hub = Hub().emitter(WebhookEmitter("https://me:secret@example.org/in?token=t0k3n"), name="partner"){more}
"""


def test_validate_shows_where_events_go_and_values_as_they_are_written(tmp_path: Path) -> None:
    (file := tmp_path / "hub.py").write_text(WEBHOOK.format(more=""))
    (line,) = [line for line in polku_here("validate", str(file)).stdout.splitlines() if line.startswith("emitter")]
    assert line.startswith("emitter   partner (https://example.org): WebhookEmitter(format='json', timeout=10.0, ")


def test_validate_warns_of_open_addresses_that_somebody_names(tmp_path: Path) -> None:
    (file := tmp_path / "hub.py").write_text(WEBHOOK.format(more=""))
    assert polku_here("validate", str(file)).stderr == ""
    assert "grpc 0.0.0.0:9 is open" in polku_here("validate", str(file), POLKU_GRPC_ADDR="0.0.0.0:9").stderr
    file.write_text(WEBHOOK.format(more=".listen(http_addr='0.0.0.0:8')"))
    assert "warning: http 0.0.0.0:8 is open" in polku_here("validate", str(file)).stderr
    file.write_text(WEBHOOK.format(more=".security(require=True)"))  # `polku run` would open the default address
    refused = polku_here("validate", str(file))
    assert (refused.returncode, "'0.0.0.0:50051'" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("package", "part", "command"),
    [
        ("confluent_kafka", "emitter(KafkaEmitter('t', bootstrap_servers='a:1'))", "pip install 'polku[kafka]'"),
        (
            "confluent_kafka",
            "source(KafkaSource(['t'], bootstrap_servers='a:1', group='g', decode='event'))",
            "polku[kafka]",
        ),
        ("obstore", "emitter(Resilience(S3Emitter('s3://bucket')))", "pip install 'polku[s3]'"),
        ("pyarrow", "emitter(S3Emitter('s3://bucket', format='parquet'))", "pip install 'polku[s3,parquet]'"),
    ],
)
def test_validate_fails_where_a_package_is_missing_that_the_plan_needs(
    package: str, part: str, command: str, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.py"
    absent = f"import sys\nsys.modules['{package}'] = None\n"  # importing it raises ImportError
    kinds = "Hub, KafkaEmitter, KafkaSource, Resilience, S3Emitter"
    file.write_text(f"{absent}from polku import {kinds}\nhub = Hub(runtime='inline').emitter(print).{part}\n")
    done = polku("validate", str(file))
    assert done.returncode == 1
    assert command in done.stderr
    assert done.stdout == ""


def test_validate_says_that_it_runs_the_file() -> None:
    assert "Run a Python file to build its plan, and start nothing" in polku("validate", "--help", COLUMNS="200").stdout


def test_graph_prints_mermaid(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    drawn = polku_here("graph", str(file)).stdout
    assert drawn.startswith("flowchart LR")
    assert "stdout" in drawn


@pytest.mark.usefixtures("ray_session")
def test_serve_on_ray_prints_the_same_from_the_lane_of_its_node(tmp_path: Path) -> None:
    server = Server(tmp_path, "serve", POLKU_GRPC_ADDR="127.0.0.1:0", POLKU_LANES="per-node")
    try:
        assert polku("send", "--to", server.address, "--type", "user.login", "--id", "evt-ray").returncode == 0
        server.wait_for(server.out, "evt-ray")
        assert server.stop() == 0
        (line,) = server.out.read_text().splitlines()
        event: dict[str, Any] = json.loads(line)
        assert event["id"] == "evt-ray"
    finally:
        server.stop(signal.SIGKILL)


ARRANGED = """
from polku import Deduplicator, Filter, Hub, StdoutEmitter

def classify(event):
    pass

hub = Hub().chain().lanes(2).middleware(Filter(lambda event: True)).middleware(Deduplicator())
hub.middleware(classify, replicas=3, num_cpus=1).emitter(StdoutEmitter())
"""


def test_graph_and_validate_show_lanes_chains_replicas_and_shared_stages(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(ARRANGED)
    drawn = polku_here("graph", str(file)).stdout.splitlines()
    boxes = [line.strip() for line in drawn if "subgraph" in line]
    assert boxes == ['subgraph lane_1["lane 1, one actor"]', 'subgraph lane_2["lane 2, one actor"]']
    for arrow in ("stage_1_1 --> stage_2", "stage_1_2 --> stage_2", "stage_2 --> stage_3_2", "stage_3_1 --> buffer_1"):
        assert f"  {arrow}" in drawn
    assert '  stage_2["Deduplicator"]' in drawn
    assert '  stage_3_2["classify<br/>3 replicas"]' in drawn
    shown = polku_here("validate", str(file)).stdout
    assert "2, side by side behind one port, each in one actor" in shown
    assert "Deduplicator (one for all lanes: keeps state, Deduplicator by id)" in shown
    assert "classify (needs 3 replicas, 1 CPUs)" in shown
    per_node = polku_here("validate", "--lanes", "per-node", str(file)).stdout
    assert "lanes     one on each node, at the same port, each in one actor" in per_node
    file.write_text(ARRANGED.replace(".chain().lanes(2)", ""))
    drawn = polku_here("graph", "--chain", "--lanes", "per-node", str(file)).stdout.splitlines()
    assert '  subgraph lane["lane of each node, one actor"]' in drawn
    assert "  stage_2 --> stage_3" in drawn
    for command in ("run", "validate", "graph"):
        refused = polku(command, "--lanes", "per_node", str(file))
        assert refused.returncode == 2
        assert "--lanes='per_node'" in refused.stderr
    inline = polku_here("validate", "--runtime", "inline", str(file)).stdout
    assert "stage-1   Filter(lambda) → Deduplicator\n" in inline
    assert "lanes" not in inline
    assert "replicas" not in inline


SLOW_START = """
import asyncio, pathlib
from polku import Hub

class Slow:
    name = "slow"
    async def start(self):
        pathlib.Path({mark!r}).touch()
        await asyncio.sleep(1)
    async def emit(self, batch):
        pass

hub = Hub().emitter(Slow())
"""


def test_a_signal_while_the_pipeline_starts_ends_it_in_order(runtime: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    mark = tmp_path / "starting"
    file.write_text(SLOW_START.format(mark=str(mark)))
    command = [sys.executable, "-m", "polku", "run", str(file), "--runtime", runtime, "--grpc-addr", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            eventually(mark.exists, 120)
            process.terminate()
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
        assert process.returncode == 0, said
    assert "polku: stopped" in said
