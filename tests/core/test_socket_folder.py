"""What a killed process leaves in the folder for temporary files is removed by the next one, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from polku.socket_folder import SocketFolder, remove_left

HOLDER = """
import sys
from polku.socket_folder import SocketFolder
folder = SocketFolder("test")
(folder.path / "hop").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_the_folder_of_a_process_that_lives_is_left_and_that_of_a_killed_one_removed(temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().strip())
        remove_left("test")
        assert folder.is_dir()
        holder.send_signal(signal.SIGKILL)
    assert folder.is_dir()
    mine = SocketFolder("test")
    assert list(temporary.iterdir()) == [mine.path]
    mine.close()
    assert list(temporary.iterdir()) == []


def test_folders_of_other_kinds_and_such_as_are_just_being_made_are_left(temporary: Path) -> None:
    kept = [temporary / "polku-test-young", temporary / "polku-other-x", temporary / "other-test-x"]
    old = temporary / "polku-test-old"
    for folder in (*kept, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    (temporary / "polku-test-file").touch()
    (temporary / "polku-test-link").symlink_to(kept[2], target_is_directory=True)
    remove_left("test")
    assert not old.exists()
    assert all(folder.is_dir() for folder in kept)
