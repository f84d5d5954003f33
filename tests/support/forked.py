"""`polku` commands as processes that are forked from one which has imported what they import.

A command spends half a second of processor time on imports, and the tests run hundreds. Each is a process of its own
here too, with its own command line, environment, folder, standard files and signals; only its modules were loaded
before. `/proc` shows the command line and the environment of the process that it was forked from. So are programs in
Python that use `polku`, and `pytest`, whose modules are imported once the first one is asked for.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import importlib.metadata
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

_MODULES: tuple[str, ...] = (
    *("polku.cli.app", "polku.cli.sending", "polku.cli.serve", "polku.cli.run", "polku.cli.validate"),
    *("polku.cli.graph", "polku.cli.reload", "polku.cli.admin_client", "polku.hub", "polku.runner", "polku.pipeline"),
    "polku.sendable",
    *("polku.runtime.inline", "polku.runtime.serving", "polku.runtime.notify", "polku.runtime.reloads"),
    *("polku.runtime.reloading", "polku.runtime.status_line", "polku.runtime.flow", "polku.runtime.unhealthy"),
    *("polku.runtime.orphaned_journals", "polku.gateway.grpc.server", "polku.gateway.otlp.grpc"),
    *("polku.gateway.http.server", "polku.gateway.http.plain", "polku.ingest.cloudevents", "polku.ingest.passthrough"),
    *("polku.ingest.adapt", "polku.middleware.filter", "polku.middleware.adapt", "polku.emit.adapt"),
    *("polku.emit.resilience", "polku.emit.parts", "polku.monitoring.run_files", "polku.monitoring.admin_thread"),
    *("polku.monitoring.live", "encodings.ascii", "grpc", "grpc_health.v1.health_pb2"),
    *("grpc_reflection.v1alpha.reflection_pb2", "ulid", "uvloop"),
    "ray.cloudpickle",  # a file is loaded for Ray unless another runtime is named: half a second
)
_OF_TESTS = ("polku.testing.pytest_plugin", "polku.testing.strategies", "polku.testing.simulation.world")
Program = Literal["polku", "python", "pytest"]
_START_SECONDS = 120.0
_MAY_IGNORE = (signal.SIGHUP, signal.SIGINT)


class Forked:
    """A process that was forked, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._read(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status once it has ended."""
        status = self._read(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _read(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            said = self._status.recv(16)
            self.returncode = int(said) if said else -signal.SIGKILL
            self._status.close()
        return self.returncode


def fork(
    arguments: Sequence[str],
    files: Sequence[int],
    environment: Mapping[str, str],
    folder: str = "",
    path: str = "",
    *,
    program: Program = "polku",
) -> Forked:
    """Start a command: its arguments, standard files, environment, folder, and the first folder of its modules.

    That is the one where it runs, as with `python -m polku`, unless another is named. The first argument of `python` is
    a file.
    """
    control, lock = _zygote()
    mine, theirs = socket.socketpair()
    folder = folder or os.getcwd()
    asked = {
        "program": program,
        "arguments": [*arguments],
        "environment": dict(environment),
        "folder": folder,
        "path": path or folder,
        "ignored": [number for number in _MAY_IGNORE if signal.getsignal(number) is signal.SIG_IGN],
    }
    data = json.dumps(asked).encode()
    with theirs, lock:
        socket.send_fds(control, [len(data).to_bytes(4, "little")], [*files, theirs.fileno()])
        control.sendall(data)
        (pid,) = array.array("q", control.recv(8))
    return Forked(pid, mine)


@functools.cache
def _zygote() -> tuple[socket.socket, threading.Lock]:
    """Start the process that forks, once in each process of the tests; it ends with it."""
    mine, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.support.forked", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    mine.settimeout(_START_SECONDS)
    assert mine.recv(1) == b"!", "the process that forks has not started"

    def end() -> None:
        mine.close()
        process.wait(30)

    atexit.register(end)
    return mine, threading.Lock()


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork whatever is asked for; return in the fork with what it is to be, and None once nobody asks any more."""
    running: dict[int, socket.socket] = {}
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_of_the_dead(running)
        if control not in ready:
            continue
        head, files, _, _ = socket.recv_fds(control, 4, 4)
        if not head:
            return None
        data = b""
        while len(data) < int.from_bytes(head, "little"):
            data += control.recv(65536)
        asked = json.loads(data)
        if asked["program"] == "pytest":
            _import_pytest()
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (control, woken, wake, *running.values()):
                other.close()
            os.close(files.pop())
            return {**asked, "files": files}
        running[pid] = socket.socket(fileno=files.pop())
        for file in files:
            os.close(file)
        control.sendall(array.array("q", [pid]).tobytes())


def _tell_of_the_dead(running: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(ended[0]) as status, contextlib.suppress(OSError):
                status.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())


def set_up(asked: dict[str, Any]) -> None:
    """Make this process what was asked for."""
    for number, file in enumerate(asked["files"]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(asked["environment"])
    time.tzset()
    os.chdir(asked["folder"])
    for number in _MAY_IGNORE:
        if number in asked["ignored"]:
            signal.signal(number, signal.SIG_IGN)
        elif signal.getsignal(number) is signal.SIG_IGN:  # as whatever started the tests has it
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.argv[:] = asked["arguments"] if asked["program"] == "python" else [asked["program"], *asked["arguments"]]
    more = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[:1] = [asked["path"], *more]
    sys.stdin = sys.__stdin__ = _text(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text(2, "w", errors="backslashreplace", at_once=True)  # type: ignore[misc]


def _text(number: int, mode: str, *, errors: str = "strict", at_once: bool = False) -> io.TextIOWrapper:
    """Open a standard file as Python does at its start."""
    raw: Any = open(number, f"{mode}b", closefd=False)  # noqa: SIM115 - it stays open
    return io.TextIOWrapper(raw, "utf-8", errors, line_buffering=at_once or os.isatty(number))


@functools.cache
def _import_pytest() -> None:
    """Import pytest with its own plugins and those of what is installed.

    It rewrites the assertions of a plugin that is imported after its start, and warns of one that was before; the tests
    that it runs are always imported later.
    """
    import _pytest.assertion.rewrite
    import _pytest.config

    for name in _pytest.config.default_plugins:
        importlib.import_module(f"_pytest.{name}")
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        importlib.import_module(plugin.module)
    for module in _OF_TESTS:
        importlib.import_module(module)
    _pytest.assertion.rewrite.AssertionRewritingHook._warn_already_imported = lambda *_: None  # type: ignore[method-assign]
    _check_threads()
    _keep()


def main() -> None:
    for module in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    _check_threads()
    _keep()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.sendall(b"!")
        asked = serve(control)
    if asked is not None:
        set_up(asked)
        run(asked["program"])


def run(program: Program) -> None:
    """Run what this process was set up for, as its main module."""
    if program != "python":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__file__ = sys.argv[0]
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), vars(module))


def _check_threads() -> None:
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("the imports have started a thread: what is forked beside one may stand still")


def _keep() -> None:
    gc.collect()
    gc.freeze()  # what is never collected is never copied


if __name__ == "__main__":
    main()
