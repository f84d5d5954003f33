"""A running pipeline loads its file again: when it is asked to, by a signal, or when the file is saved."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from polku import Hub
from polku.cli.admin_client import find
from polku.cli.load import beside, load_hub, send_by_value
from polku.cli.reload import watching
from polku.errors import ChangeError, PlanError
from polku.runtime.reloading import Reloader
from tests.support.server import Server, polku

PIPELINE = """
from polku import Hub, StdoutEmitter, Transform
import {helper}

def mark(event):
    event.metadata["tag"] = {helper}.TAG

hub = Hub().middleware(Transform(mark)).emitter(StdoutEmitter(), name="out")
"""


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[str]:
    """Write a pipeline, and a module next to it; return that one's name, which no other test has."""
    name = f"helper_{os.getpid()}_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text("TAG = 'one'\n")
    (tmp_path / "pipeline.py").write_text(PIPELINE.format(helper=name))
    before = list(sys.path)
    yield name
    sys.path[:] = before
    sys.modules.pop(name, None)


def has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def test_a_pipeline_that_runs_loads_its_file_again(tmp_path: Path, helper: str) -> None:
    file = tmp_path / "pipeline.py"
    where = ("--runtime", "inline", "--grpc-addr", "127.0.0.1:0", "--admin-addr", f"unix:{tmp_path}/admin")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    server = Server(tmp_path, "run", str(file), *where, NOTIFY_SOCKET=str(tmp_path / "notify"))

    def send(event_id: str) -> None:
        assert polku("send", "--to", server.address, "--type", "x", "--id", event_id).returncode == 0

    send("a")
    (tmp_path / f"{helper}.py").write_text("TAG = 'two'\n")
    done = polku("reload", "--to", f"unix:{tmp_path}/admin")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "changed   middleware Transform(mark)"
    send("b")
    file.write_text("hub = 1 / 0\n")
    done = polku("reload", "--to", f"unix:{tmp_path}/admin")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert f"ZeroDivisionError while it was run (line 1 of {file}): division by zero" in done.stderr
    assert "reload: nothing was changed" in polku("health", "--to", f"unix:{tmp_path}/admin").stdout
    counted = find(f"unix:{tmp_path}/admin").fetch("/metrics")[1].decode()
    assert re.search(r'polku_reloads_total{[^}]*result="done"[^}]*} 1.0', counted)
    assert re.search(r'polku_reloads_total{[^}]*result="refused"[^}]*} 1.0', counted)
    assert re.search(r"polku_reload_done_timestamp_seconds{[^}]*} [1-9]", counted)
    send("c")
    if not has_terminal():
        file.write_text(PIPELINE.format(helper=helper).replace("TAG", "TAG + '!'"))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(server.err, r"(?s)cannot be loaded.*reload: done")
        send("d")
        assert polku("health", "--to", f"unix:{tmp_path}/admin").stdout == "ready\n"
    systemd.settimeout(30)
    reported = [systemd.recv(4096).decode().split("\n")[0] for _ in range(5)]
    assert reported == ["READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1"]
    systemd.close()
    assert server.stop() == 0
    tags = [line.partition('"tag":"')[2].partition('"')[0] for line in server.out.read_text().splitlines()]
    assert tags == ["one", "two", "two", "two!"][: len(tags)]
    assert len(tags) >= 3


def test_a_file_that_names_another_address_moves_the_port_unless_an_option_names_it(tmp_path: Path) -> None:
    file, admin = tmp_path / "pipeline.py", f"unix:{tmp_path}/admin"

    def write(grpc: str, http: str) -> None:
        listen = f".listen(grpc_addr='unix:{tmp_path}/{grpc}', http_addr='unix:{tmp_path}/{http}')"
        file.write_text(f"from polku import Hub\nhub = Hub().emitter(lambda batch: None, name='out'){listen}\n")

    write("grpc-1", "http-1")
    environment = {"POLKU_GRPC_ADDR": "127.0.0.1:1", "POLKU_OTLP_ADDR": f"unix:{tmp_path}/otlp"}
    options = ("--runtime", "inline", "--admin-addr", admin, "--http-addr", f"unix:{tmp_path}/http")
    server = Server(tmp_path, "run", str(file), *options, **environment)
    assert (server.address, server.http_address) == (f"unix:{tmp_path}/grpc-1", f"unix:{tmp_path}/http")
    assert f"otlp unix:{tmp_path}/otlp" in server.err.read_text()
    write("grpc-2", "http-2")
    done = polku("reload", "--to", admin)
    moved = f"changed   address grpc: unix:{tmp_path}/grpc-2 (was unix:{tmp_path}/grpc-1)"
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "address" in line] == [moved]
    assert polku("send", "--to", f"unix:{tmp_path}/grpc-2", "--type", "x", "--id", "a").returncode == 0
    write("nowhere/grpc", "http-2")
    done = polku("reload", "--to", admin)
    assert done.returncode == 1
    assert "nowhere/grpc" in done.stderr
    assert polku("send", "--to", f"unix:{tmp_path}/grpc-2", "--type", "x", "--id", "b").returncode == 0
    assert server.stop() == 0


def test_modules_next_to_the_file_are_loaded_again_and_are_back_where_that_fails(tmp_path: Path, helper: str) -> None:
    file = str(tmp_path / "pipeline.py")
    load_hub(file, runtime="inline")
    first = sys.modules[helper]
    (tmp_path / f"{helper}.py").write_text("TAG = 'two'\n")
    with beside(Path(file)):
        load_hub(file, runtime="inline")
    second: Any = sys.modules[helper]
    assert second is not first
    assert second.TAG == "two"
    (tmp_path / f"{helper}.py").write_text("TAG = 1 / 0\n")
    with pytest.raises(ZeroDivisionError), beside(Path(file)):
        load_hub(file, runtime="inline")
    assert sys.modules[helper] is second


def test_files_are_watched_that_the_pipeline_has_imported(tmp_path: Path, helper: str) -> None:
    file = tmp_path / "pipeline.py"
    load_hub(str(file), runtime="inline")
    look = watching(f"{file}:hub")
    first = look()
    assert look() == first
    (tmp_path / f"{helper}.py").write_text("TAG = 'another'\n")
    second = look()
    assert second != first
    file.unlink()
    assert look() != second


class Pipeline:
    """A pipeline as the reloader uses it."""

    def __init__(self, refuse: str = "") -> None:
        self.refuse = refuse
        self.noted: list[str] = []
        self.runtime = "inline"

    def plan_of(self, hub: Hub) -> object:
        return hub.plan("inline")

    def update_plan(self, plan: object) -> Any:
        raise ChangeError([self.refuse], f"changed   limits\nrefused   {self.refuse}")

    def note_reload(self, refused: str = "") -> None:
        self.noted.append(refused)


def hub() -> Hub:
    return Hub(runtime="inline").emitter(lambda batch: None, name="out")


def broken() -> Hub:
    raise KeyError("x")


def failing() -> Hub:
    raise PlanError("there is no emitter", where="Hub")


@pytest.mark.parametrize(
    ("load", "refused"),
    [
        (failing, "nothing was changed: Hub: there is no emitter"),
        (Hub, "nothing was changed: Hub: there is no emitter; add one"),
        (hub, "nothing was changed: it hangs"),
        (broken, "nothing was changed: the file raised KeyError: 'x'"),
        (sys.exit, "nothing was changed: the file raised SystemExit"),
    ],
    ids=["no plan", "an empty plan", "a change that is refused", "an exception", "an exit"],
)
def test_why_nothing_was_changed_is_said_to_all_who_asked(load: Callable[[], Hub], refused: str) -> None:
    pipeline: Any = Pipeline("it hangs")
    said: list[str] = []
    reloader = Reloader(load)
    reloader.serve(pipeline, said.append)
    assert not said
    answers = [reloader.ask(), reloader.ask()]
    reloader.serve(pipeline, said.append)
    assert all(answer.result(0).refused.startswith(refused) for answer in answers)
    assert all(answer.result(0).lines == (["would be changed   limits"] if load is hub else ()) for answer in answers)
    assert said[-1].startswith(f"polku: reload: {refused}")
    assert pipeline.noted[0].startswith(refused)
    reloader.signal()
    reloader.serve(pipeline, said.append)
    assert len(pipeline.noted) == 2


def test_an_error_of_our_own_in_a_change_does_not_end_the_pipeline() -> None:
    class Faulty(Pipeline):
        def update_plan(self, plan: object) -> Any:
            raise RuntimeError("not foreseen")

    pipeline: Any = Faulty()
    reloader = Reloader(hub)
    answer = reloader.ask()
    reloader.serve(pipeline, lambda text: None)
    assert answer.result(0).refused == "the change was broken off: RuntimeError: not foreseen"
    assert pipeline.noted == ["the change was broken off: RuntimeError: not foreseen"]


def test_modules_that_are_imported_or_odd_meanwhile_are_no_matter_of_a_file(
    tmp_path: Path, helper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> object:
            monkeypatch.setitem(sys.modules, f"{helper}_{name}", ModuleType(name))  # as another thread would
            raise ImportError("it needs something that is not there")

    monkeypatch.setitem(sys.modules, "odd", object())
    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    look = watching(str(tmp_path / "pipeline.py"))
    assert look() == look()
    with beside(tmp_path / "pipeline.py"):
        pass
    send_by_value(tmp_path / "pipeline.py")


def test_a_file_that_is_saved_is_loaded_once() -> None:
    versions = [1]
    pipeline: Any = Pipeline("it hangs")
    reloader = Reloader(hub, watch=lambda: tuple(versions))
    for wanted in (0, 1, 1):
        reloader.serve(pipeline, lambda text: None)
        assert len(pipeline.noted) == wanted
        versions[0] = 2
