"""The table measures, judges and writes, misses included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import http_door, sent
from tests.bench.rows import Line, at_least, at_most
from tests.bench.table import PROJECT, http_lines, tls_lines, write
from tests.support.server import environment


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (at_least(10, 10), "met"),
        (at_least(9, 10), "missed by 10%"),
        (at_most(10, 10), "met"),
        (at_most(15, 10), "missed by 50%"),
    ],
)
def test_a_miss_says_by_how_much(verdict: str, text: str) -> None:
    assert verdict == text


def test_results_name_no_folder_of_the_machine(tmp_path: Path) -> None:
    write([Line("row", "", str(PROJECT / "tests/bench/pipelines.py"), "")], {}, 1, tmp_path / "table")
    (line,) = json.loads((tmp_path / "table.json").read_text())["lines"]
    assert line["measured"] == "tests/bench/pipelines.py"


def test_what_people_send_is_in_the_table() -> None:
    names = " ".join(row.name for row in sent.table_rows(1.0))
    shapes = (
        "cluster",
        "payload 1,024 B",
        "payload 16,384 B",
        "of 100",
        "of 10",
        "unary, 1 ",
        "unary, 8 ",
        "unary, 64 ",
    )
    assert all(shape in names for shape in (*shapes, "two emitters", "Deduplicator and Router", "durable"))


def test_http_and_tls_are_measured_next_to_what_has_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_door, "ROWS", http_door.ROWS[:1])
    (http,) = http_lines(1, 0.05)
    assert http.what == "HTTP: JSON, one event, of a bare server"
    assert http.verdict.startswith(("met", "missed by"))
    lines = tls_lines(1, 100)
    assert [line.what for line in lines] == [
        f"TLS: messages of {size}, of those without" for size in ("1,000", "10", "1")
    ]
    assert all(float(line.measured.split()[0]) > 0 for line in lines)


def test_a_row_is_measured_and_written_with_machine_and_command(tmp_path: Path) -> None:
    options = ["--quick", "--rounds", "1", "--only", "pass-through", "--results", str(tmp_path)]
    command = [sys.executable, "-m", "tests.bench.table", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment())
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "quick.json").read_text())
    (line,) = written["lines"]
    assert line["what"] == "inline, pass-through"
    (result,) = written["results"]["pass"]
    assert (result["delivered"], result["lost"], result["duplicates"]) == (50_000, 0, 0)
    assert "tests.bench.table --quick" in written["command"]
    assert written["machine"]["cores"]
    assert "| inline, pass-through | reported |" in (tmp_path / "quick.md").read_text()
