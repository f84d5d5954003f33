"""A file that grows, and the standard input, as the conformance suite of sources needs them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from polku import FileSource, StdinSource
from polku.testing import Origin, OriginAbility


class GrowingFile(Origin):
    """A file, and the offsets beside it; a file that is not there is one without lines, and nothing to name."""

    abilities = OriginAbility.COMMITS

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.log, self.offsets = self.folder / "app.log", self.folder / "offsets"

    async def start(self) -> None:
        self.log.touch()

    async def stop(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def source(self) -> FileSource:
        return FileSource(
            self.log,
            offsets=self.offsets,
            window=self.window,
            poll_seconds=0.02,
            scan_seconds=0.05,
            commit_seconds=0.05,
        )

    async def put(self, texts: Sequence[str]) -> None:
        with self.log.open("a") as file:
            file.writelines(f"{text}\n" for text in texts)

    async def committed(self) -> int:
        if not self.offsets.exists():
            return 0
        (file,) = json.loads(self.offsets.read_text())["files"] or [{"offset": 0}]
        return self.log.read_bytes()[: file["offset"]].count(b"\n")


class StandardInput(Origin):
    """This process's standard input, which is a pipe meanwhile; nobody is told what of it is in."""

    async def start(self) -> None:
        self.own = os.dup(0)
        read, self.write = os.pipe()
        fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 1 << 20)  # records are there before a source is
        os.dup2(read, 0)
        os.close(read)

    async def stop(self) -> None:
        os.close(self.write)
        os.dup2(self.own, 0)
        os.close(self.own)

    def source(self) -> StdinSource:
        return StdinSource(window=self.window)

    async def put(self, texts: Sequence[str]) -> None:
        data = "".join(f"{text}\n" for text in texts).encode()
        assert os.write(self.write, data) == len(data)
