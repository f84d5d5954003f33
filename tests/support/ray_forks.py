"""Workers of Ray that are forked from one process which has imported what they import.

A worker of Ray spends more than a second of processor time on imports, and a pipeline has four workers or more. Each is
a process of its own here too, with its own connection to Ray; only its modules were loaded before.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support import idle_agent, ray_worker
from tests.support.ports import free_port

_IDLE_SECONDS = 60
_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
_AGENTS = ("--dashboard_agent_command", "--runtime_env_agent_command")
_MODULES = (
    "polku.actors.lane",
    "polku.actors.runtime",
    "polku.emit.adapt",
    "polku.gateway.grpc.server",
    "polku.gateway.http.plain",
    "polku.gateway.http.server",
    "polku.gateway.otlp.grpc",
    "polku.gateway.otlp.service",
    "polku.ingest.adapt",
    "polku.middleware.adapt",
    "polku.otlp.ingestor",
    "encodings.ascii",
    "grpc_health.v1.health_pb2",
    "grpc_reflection.v1alpha.reflection_pb2",
    "ray._common.pydantic_compat",
    "ray._common.usage.usage_lib",
    "ray._private.arrow_serialization",
    "zoneinfo",
)
# Ray imports these where they are installed, to pickle what is theirs, in each worker once it is asked for something.
_PICKLED = ("pydantic.v1.fields", "starlette.datastructures", "numpy", "pyarrow.json")
_PLAIN = ("-I", "-S")  # a program that needs no installed package starts in half the time
_NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false", "OPENBLAS_NUM_THREADS": "1"}


class _ClassId:
    """Name classes of actors without Ray's random numbers: all workers would go on with the same ones after a fork."""

    @staticmethod
    def from_random() -> Any:
        from ray import ActorClassID

        return ActorClassID(os.urandom(ActorClassID.size()))


@contextlib.contextmanager
def forked_workers(**settings: Any) -> Iterator[None]:
    """Let the nodes of Ray that this process starts meanwhile fork their workers, and be bare but for the settings."""
    with tempfile.TemporaryDirectory(prefix="forks", ignore_cleanup_errors=True) as folder:
        variables = {
            ray_worker.FORKS: folder,
            ray_worker.PROGRAM: program(),
            "RAY_prestart_worker_first_driver": "0",  # such workers are not forked
        }
        from ray._private import services

        plain = mock.patch.object(services, "_site_flags", return_value=[*_PLAIN])
        changed = mock.patch.dict(os.environ, variables)
        with plain, changed, bare_nodes(worker_path=ray_worker.__file__, **settings):
            yield


def program() -> str:
    """Return the path of what Ray runs as a worker."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    return str(Path(ray.origin).parent / "_private" / "workers" / "default_worker.py")


@contextlib.contextmanager
def bare_nodes(**settings: Any) -> Iterator[None]:
    """Let the nodes of Ray that this process starts meanwhile do without processes that no test asks.

    Those are the dashboard, the agents of a node, which serve metrics and environments of workers, the autoscaler and
    the log monitor: each imports `ray` and more, and the dashboard is waited for.
    """
    from ray._private import node, parameter, services, utils
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port  # type: ignore[attr-defined]

    get_node: Any = services.get_node
    start_raylet: Any = node.Node.start_raylet
    start_process: Any = services.start_ray_process

    def start_no_dashboard(self: Any, **_: Any) -> None:
        self._webui_url = ""

    def start_raylet_at_once(self: Any, *arguments: Any) -> None:
        """Write down the one port that a node cannot be told, which it waits for until its agent does."""
        port = self._ray_params.dashboard_agent_listen_port
        persist_port(self._session_dir, self._node_id, DASHBOARD_AGENT_LISTEN_PORT_NAME, port)
        start_raylet(self, *arguments)

    def start_without_agents(command: list[str], *arguments: Any, **options: Any) -> Any:
        idle = subprocess.list2cmdline([sys.executable, *_PLAIN, idle_agent.__file__])
        command = [f"{part.partition('=')[0]}={idle}" if part.startswith(_AGENTS) else part for part in command]
        return start_process(command, *arguments, **options)

    def get_node_again(*which: Any) -> Any:
        """Ask twice: where one question is lost, Ray has spent all the time that it gives a node to start."""
        try:
            return get_node(*which)
        except RuntimeError as error:
            if "Deadline" not in str(error):
                raise
        return get_node(*which)

    def bare(*arguments: Any, **options: Any) -> Any:
        return parameter_class(*arguments, **{**own, **options, **dict(zip(_AGENT_PORTS, free_ports(), strict=True))})

    parameter_class = parameter.RayParams
    own: dict[str, Any] = {"no_monitor": True, "include_log_monitor": "", **settings}
    with (
        mock.patch.object(parameter, "RayParams", bare),
        mock.patch.object(node.Node, "start_api_server", start_no_dashboard),
        mock.patch.object(node.Node, "start_raylet", start_raylet_at_once),
        mock.patch.object(services, "start_ray_process", start_without_agents),
        mock.patch.object(services, "get_node", get_node_again),
        mock.patch.object(utils, "get_dashboard_dependency_error", return_value=ImportError("not asked for")),
    ):
        yield


def free_ports() -> list[int]:
    """Return a free port for each agent of a node.

    A node that knows them does not wait for the agents: it gives them fifteen seconds, and they import for that long on
    a busy machine.
    """
    return [free_port() for _ in _AGENT_PORTS]


def serve(listener: socket.socket) -> None:
    """Fork a worker for each connection; return in the worker, whose process is set up as if it had been started.

    Ends the program with the node, and where nothing was asked for and no worker lives.
    """
    idle = 0
    listener.settimeout(1)
    while idle < _IDLE_SECONDS:
        idle = 0 if has_children() else idle + 1
        if not node_lives():
            break
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            idle = 0
            with connection:
                asked, files = receive(connection)
                if os.fork() == 0:
                    set_up(asked, files)
                    return
                for file in files:
                    os.close(file)
                connection.sendall(b"1")
    sys.exit()


def has_children() -> bool:
    """Return whether a worker lives."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def node_lives() -> bool:
    """Return whether the node's raylet is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(os.environ["RAY_RAYLET_PID"]), 0)
        return True
    return False


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return what was asked for, and the standard files."""
    connection.settimeout(10)
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    data = b""
    while len(data) < int.from_bytes(head, "little"):
        data += connection.recv(65536)
    return json.loads(data), files


def set_up(asked: dict[str, Any], files: list[int]) -> None:
    """Make this process what Ray wanted to start; Ray kills its process group with it."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.argv[1:] = asked["arguments"]


def preload() -> None:
    """Import what workers import.

    Raises `RuntimeError` where that starts a thread; workers are then started as always.
    """
    import ray._private.workers.default_worker  # noqa: F401

    with mock.patch("ray.actor.ActorClassID", _ClassId), mock.patch.dict(os.environ, _NO_THREADS):
        for module in (*_MODULES, *_PICKLED):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("the imports have started a thread: what is forked beside one may stand still")
    gc.freeze()  # what is never collected is never copied


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    preload()
    worker = program()
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        serve(opened)
    sys.argv[0] = worker
    sys.path[0] = str(Path(worker).parent)
    runpy.run_path(worker, run_name="__main__")
