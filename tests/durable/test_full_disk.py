"""A disk that is full: clients are refused, nothing acknowledged is lost, and work goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durable.process import said, start, wait_until_said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root's rights")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def ask(folder: Path, process: subprocess.Popen[str]) -> str:
    """Have the process say how it is, and send one event."""
    assert process.stdin is not None
    count = len(said(folder, "ack")) + len(said(folder, "refused"))
    process.stdin.write("\n")
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while len(said(folder, "ack")) + len(said(folder, "refused")) == count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lines = (folder / "said").read_text().splitlines()
    return [line for line in lines if line.split(" ")[0] in ("fault", "well", "ack", "refused")][-1]


def fill(folder: Path) -> None:
    """Take what room there is."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"." * 4096)
        except OSError:
            return


def arrived(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().split() if path.exists() else []


@pytest.mark.timeout(300)
def test_a_journal_that_may_not_grow_refuses_by_name_and_keeps_what_it_took(tmp_path: Path) -> None:
    """A file of at most 8 MB: with more room, at the next start, all that was acknowledged is delivered."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.hold").touch()
    process = start(tmp_path, "--end=400", "--size=60000", "--limit=8000000", "--watch")
    wait_until_said(tmp_path, "fault", 1, process)
    refused = said(tmp_path, "refused")
    assert 10 < len(refused) < 400
    assert all("BUFFER_FULL" in line and str(tmp_path / "journal.db") in line for line in refused)
    assert str(tmp_path / "journal.db") in said(tmp_path, "fault")[0]
    for name in ("one", "two"):
        (tmp_path / f"{name}.hold").unlink()
    process.communicate("")
    assert process.returncode == 0, (tmp_path / "errors").read_text()
    last = start(tmp_path)
    wait_until_said(tmp_path, "closed", 2, last)
    for name in ("one", "two"):
        assert set(arrived(tmp_path, name)) == set(said(tmp_path, "ack"))


@pytest.mark.timeout(300)
def test_a_full_disk_refuses_and_heals_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "two.hold").touch()
    journal = small_disk / "journal.db"
    process = start(tmp_path, "--end=50", "--size=20000", "--watch", journal=journal)
    wait_until_said(tmp_path, "well", 1, process)
    fill(small_disk)
    for _ in range(3):
        answer = ask(tmp_path, process)
    while answer.startswith("ack"):  # the write-ahead log has room of its own
        answer = ask(tmp_path, process)
    assert "BUFFER_FULL" in answer
    assert "the disk is full" in answer
    assert process.poll() is None
    (small_disk / "filler").unlink()
    deadline = time.monotonic() + 30
    while not ask(tmp_path, process).startswith("ack"):
        assert time.monotonic() < deadline, (tmp_path / "errors").read_text()
        time.sleep(0.1)
    (tmp_path / "two.hold").unlink()
    process.communicate("")
    assert process.returncode == 0
    acknowledged = said(tmp_path, "ack")
    for name in ("one", "two"):
        assert set(arrived(tmp_path, name)) == set(acknowledged)


@pytest.mark.timeout(300)
def test_what_is_delivered_makes_room_on_a_disk_that_the_journal_has_filled(tmp_path: Path, small_disk: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.hold").touch()
    journal = small_disk / "journal.db"
    process = start(tmp_path, "--end=1000", "--size=60000", "--watch", journal=journal)
    wait_until_said(tmp_path, "fault", 1, process)
    assert "the disk is full" in said(tmp_path, "fault")[0]
    for name in ("one", "two"):
        (tmp_path / f"{name}.hold").unlink()
    deadline = time.monotonic() + 30
    while not ask(tmp_path, process).startswith("ack"):
        assert time.monotonic() < deadline, (tmp_path / "errors").read_text()[-3000:]
        time.sleep(0.2)
    process.communicate("")
    assert process.returncode == 0
    for name in ("one", "two"):
        assert set(arrived(tmp_path, name)) == set(said(tmp_path, "ack"))
