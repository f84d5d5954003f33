"""Workers of Ray that are forked from one process which has imported what they import.

A worker of Ray spends more than a second of processor time on imports, and a pipeline has four workers or more. Each is
a process of its own here too, with its own connection to Ray; only its modules were loaded before.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.support import ray_worker
from tests.support.ports import free_port

_IDLE_SECONDS = 60
_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
_MODULES = (
    "polku.actors.lane",
    "polku.actors.runtime",
    "polku.emit.adapt",
    "ray._common.pydantic_compat",
    "ray._common.usage.usage_lib",
    "zoneinfo",
)


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
        variables = {ray_worker.FORKS: folder, "RAY_prestart_worker_first_driver": "0"}  # such workers are not forked
        changed = mock.patch.dict(os.environ, variables)
        with changed, bare_nodes(worker_path=ray_worker.__file__, **settings):
            yield


@contextlib.contextmanager
def bare_nodes(**settings: Any) -> Iterator[None]:
    """Let the nodes of Ray that this process starts meanwhile do without processes that no test asks.

    Those are the dashboard, what the agent of a node does for it, the autoscaler and the log monitor: each imports
    `ray` and more, and the dashboard is waited for.
    """
    from ray._private import node, parameter, services, utils
    from ray._raylet import DASHBOARD_AGENT_LISTEN_PORT_NAME, persist_port  # type: ignore[attr-defined]

    get_node: Any = services.get_node
    start_raylet: Any = node.Node.start_raylet

    def start_no_dashboard(self: Any, **_: Any) -> None:
        self._webui_url = ""

    def start_raylet_at_once(self: Any, *arguments: Any) -> None:
        """Write down the one port that a node cannot be told, which it waits for until its agent does."""
        port = self._ray_params.dashboard_agent_listen_port
        persist_port(self._session_dir, self._node_id, DASHBOARD_AGENT_LISTEN_PORT_NAME, port)
        start_raylet(self, *arguments)

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


def preload() -> str:
    """Import what workers import; return the path of their program.

    Raises `RuntimeError` where that starts a thread, as pyarrow does; workers are then started as always.
    """
    from ray._private.workers import default_worker

    with mock.patch("ray.actor.ActorClassID", _ClassId):
        for module in _MODULES:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("the imports have started a thread: what is forked beside one may stand still")
    gc.freeze()  # what is never collected is never copied
    return str(default_worker.__file__)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    worker = preload()
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        serve(opened)
    sys.argv[0] = worker
    sys.path[0] = str(Path(worker).parent)
    runpy.run_path(worker, run_name="__main__")
