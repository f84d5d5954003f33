"""`polku journal`: looked at, checked and mended by a person at a terminal."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from polku.batch.batch import Header
from polku.buffer.journal import Journal
from polku.buffer.journal_rows import Row, Transaction
from polku.buffer.repair import faults
from polku.dead_letters.store import DeadLetterStore
from tests.support.server import Server, polku, polku_here


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three batches, of which `a` has passed one."""
    path = tmp_path / "journal.db"
    journal = Journal(path)
    journal.register(["a", "b"])
    rows = [Row(n, ("a", "b") if n < 3 else ("b",), Header(10, None, (), 0, ""), b"." * 100) for n in (1, 2, 3)]
    journal.write(Transaction(rows))
    journal.write(Transaction((), (), {"a": 1}))
    journal.close()
    return path


@pytest.fixture
def live(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    yield journal
    journal.close()


def test_stat_shows_each_emitter(path: Path) -> None:
    shown = polku("journal", "stat", str(path))
    assert shown.returncode == 0, shown.stderr
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0][-2:] == ["not", "open"]
    assert ["a", "1", "1", "10", "164"] in [line[:5] for line in lines]
    assert ["b", "0", "3", "30", "492"] in [line[:5] for line in lines]
    (age,) = [line[5] for line in lines if line[0] == "b"]
    assert age.startswith("0:0"), "some seconds"
    assert "there is no such emitter" not in shown.stdout


def test_stat_of_a_live_journal_names_its_process(path: Path, live: Journal) -> None:
    live.write(Transaction([Row(4, ("a",), Header(1, None, (), 0, ""), b"x")]))
    shown = json.loads(polku_here("journal", "stat", str(path), "--json").stdout)
    assert shown["pid"] == str(os.getpid())
    assert (shown["batches"], shown["events"], shown["lost_batches"]) == (4, 31, 0)
    assert [(outlet["name"], outlet["cursor"], outlet["events"]) for outlet in shown["outlets"]] == [
        ("a", 1, 11),
        ("b", 0, 30),
    ]
    live.write(Transaction([Row(5, ("a",), Header(1, None, (), 0, ""), b"x")]))


def test_verify_says_ok_or_names_each_fault(path: Path) -> None:
    assert polku("journal", "verify", str(path)).stdout == "ok\n"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE batch SET payload=x'00' WHERE position=2")
    db.close()
    found = polku_here("journal", "verify", str(path))
    assert found.returncode == 1
    assert "position 2 " in found.stdout
    assert "1 faults" in found.stderr
    mended = polku("journal", "repair", str(path))
    assert mended.returncode == 0, mended.stderr
    assert "2 batches kept, 1 lost" in mended.stdout
    seen: list[tuple[int, int]] = []
    assert list(faults(path, lambda *counts: seen.append(counts))) == []
    assert seen == [(1, 2), (2, 2)]
    old = Path(mended.stdout.split("the old file is ")[1].strip())
    assert old.exists()
    assert polku_here("journal", "verify", str(path)).returncode == 0
    assert json.loads(polku_here("journal", "stat", str(path), "--json").stdout)["lost_batches"] == 1


def test_repair_leaves_a_journal_without_faults_as_it_is(path: Path) -> None:
    done = polku("journal", "repair", str(path))
    assert (done.returncode, "no faults" in done.stdout) == (0, True)
    assert not list(path.parent.glob("*.damaged-*"))


def test_repair_is_refused_while_a_process_has_the_journal(path: Path, live: Journal) -> None:
    for options in ([], ["--forget", "a"]):
        refused = polku_here("journal", "repair", str(path), *options)
        assert refused.returncode == 1
        assert f"process {os.getpid()} has it open" in refused.stderr
    assert live.read(2).header.events == 10


def test_an_emitter_that_is_no_more_is_forgotten(path: Path) -> None:
    wrong = polku_here("journal", "repair", str(path), "--forget", "c")
    assert wrong.returncode == 2
    assert "it has a, b" in wrong.stderr
    done = polku_here("journal", "repair", str(path), "--forget", "b")
    assert "removed 20 events that waited for it alone" in done.stdout
    shown = json.loads(polku_here("journal", "stat", str(path), "--json").stdout)
    assert [outlet["name"] for outlet in shown["outlets"]] == ["a"]
    assert shown["batches"] == 1


@pytest.mark.parametrize("command", ["stat", "verify", "repair"])
def test_a_path_that_is_no_journal_is_said_so(command: str, tmp_path: Path) -> None:
    missing = polku_here("journal", command, str(tmp_path / "nothing.db"))
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "there is no such file" in missing.stderr
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "nothing.db.lock"])


def test_a_file_of_dead_letters_is_called_that(tmp_path: Path) -> None:
    DeadLetterStore(tmp_path / "dead.db").close()
    done = polku_here("journal", "stat", str(tmp_path / "dead.db"))
    assert done.returncode != 0
    assert "is a file of dead letters, not a journal" in done.stderr


def test_another_programs_file_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    with sqlite3.connect(theirs) as db:
        db.execute("CREATE TABLE users(name)")
    db.close()
    before = theirs.read_bytes()
    for command in ("stat", "verify", "repair"):
        result = polku_here("journal", command, str(theirs))
        assert result.returncode == 2, result
        assert "is not a journal" in result.stderr
    assert theirs.read_bytes() == before


PIPELINE = """
from polku import BufferStrategy, Hub, StdoutEmitter
hub = Hub().buffer_strategy(BufferStrategy.durable({path!r})).emitter(StdoutEmitter())
"""


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    file, path = tmp_path / "pipeline.py", tmp_path / "data" / "journal.db"
    file.write_text(PIPELINE.format(path=str(path)))
    options = ("run", str(file), "--runtime", "inline", "--grpc-addr", "127.0.0.1:0")
    server = Server(tmp_path / "first", *options)
    try:
        second = polku(*options)
        assert second.returncode == 1  # that may pass: a unit with RestartPreventExitStatus=2 starts it again
        expected = f"polku: journal {path}: process {server.process.pid} has it open; "
        assert second.stderr.splitlines()[-1].startswith(expected)
        shown = json.loads(polku_here("journal", "stat", str(path), "--json").stdout)
        assert shown["pid"] == str(server.process.pid)
    finally:
        assert server.stop() == 0


def test_stat_names_emitters_that_are_no_more_and_rename_gives_what_waits_for_them_to_another(path: Path) -> None:
    journal = Journal(path)
    journal.register(["b-2"])
    journal.close()
    told = polku_here("journal", "stat", str(path)).stdout
    assert "emitter 'b': there is no such emitter, and 30 events wait for it in the journal (age 0:0" in told
    assert "formerly='b'" in told
    assert f"`polku journal rename {path} b NEW`" in told
    renamed = polku("journal", "rename", str(path), "b", "b-2")
    assert renamed.stdout == f"journal {path}: 30 events that waited for 'b' wait for 'b-2' now\n"
    shown = json.loads(polku_here("journal", "stat", str(path), "--json").stdout)
    assert [(o["name"], o["events"], o["orphaned"]) for o in shown["outlets"]] == [("a", 10, True), ("b-2", 30, False)]
    assert polku_here("journal", "verify", str(path)).stdout == "ok\n"


def test_rename_wants_an_emitter_that_there_is(path: Path, live: Journal) -> None:
    busy = polku("journal", "rename", str(path), "a", "c")
    assert (busy.returncode, f"process {os.getpid()} has it open" in busy.stderr) == (1, True)
    live.close()
    for old, new in (("nobody", "c"), ("a", "a"), ("a", "")):
        wrong = polku_here("journal", "rename", str(path), old, new)
        assert (wrong.returncode, "an emitter that it has (a, b)" in wrong.stderr) == (2, True)
    missing = polku_here("journal", "rename", str(path.parent / "nothing.db"), "a", "c")
    assert (missing.returncode, "no such file" in missing.stderr) == (2, True)


@pytest.mark.parametrize("command", [("run", "--runtime", "inline", "--grpc-addr", "127.0.0.1:0"), ("validate",)])
def test_a_path_that_can_have_no_journal_ends_with_status_2_and_one_sentence(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("not yours")
    for path, reason in (
        ("/dev/null/x", "/dev/null is no folder; choose another path"),
        (str(notes), "is not a journal, and was left as it is; choose another path, or move it away"),
    ):
        file = tmp_path / "pipeline.py"
        file.write_text(
            "from polku import BufferStrategy, Hub, StdoutEmitter\n"
            f"hub = Hub().buffer_strategy(BufferStrategy.durable({path!r})).emitter(StdoutEmitter())\n"
        )
        ended = polku(*command, str(file))
        assert (ended.returncode, ended.stderr) == (2, f"polku: journal {path}: {reason}\n")
    assert notes.read_text() == "not yours"
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix) == ["notes.txt", "pipeline.py"]
