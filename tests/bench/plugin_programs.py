"""The programs that the plugin benchmark calls."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

PLUGINS = Path(__file__).parent.parent.parent / "examples" / "plugins"
SOURCE = "my-custom-source"

# As many bytes back as an ingestor would send: an event is about twice the line that it was made of.
ECHO = """
import asyncio, os, grpc.aio
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
async def main():
    server = grpc.aio.server(options=UNLIMITED)
    async def echo(data, context): return data + data
    methods = {"Ingest": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("polku.v1.IngestorPlugin", methods),))
    server.add_insecure_port(os.environ["POLKU_PLUGIN_ADDRESS"])
    await server.start()
    await server.wait_for_termination()
asyncio.run(main())
"""


def built(language: str, folder: Path) -> list[str]:
    """Return the command of an ingestor plugin; one in Go is built first."""
    if language == "python":
        return [sys.executable, str(PLUGINS / "python" / "ingestor" / "plugin.py")]
    program = folder / "go-ingestor"
    environment = {**os.environ, "GOFLAGS": "-modcacherw"}
    subprocess.run(["go", "build", "-o", str(program), "./ingestor"], cwd=PLUGINS / "go", env=environment, check=True)
    return [str(program)]


@contextmanager
def running(command: Sequence[str], kind: str, path: str) -> Iterator[str]:
    """Run a program on a free port or on a Unix socket, and return its address once it answers."""
    address = f"unix:{path}.sock" if kind == "unix" else f"127.0.0.1:{_free_port()}"
    environment = {**os.environ, "POLKU_PLUGIN_ADDRESS": address}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(30)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
