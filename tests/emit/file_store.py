"""A destination in a folder that any process can write to, and that a test holds up and looks into.

As a program it is an emitter plugin, the folder in FOLDER.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from polku import Batch, Failure


class FileStore:
    """Append ids to the file `held`; files beside it say what is refused, busy, and whether to hang."""

    name = "file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def emit(self, batch: Batch) -> list[Failure]:
        refused, busy = self.read("refused"), self.read("busy")
        taken = [event_id for event_id in batch.ids if event_id not in refused and event_id not in busy]
        with (self.folder / "held").open("a") as file:
            file.writelines(f"{event_id}\n" for event_id in taken)
        while (self.folder / "hang").exists():
            (self.folder / "waiting").touch()
            time.sleep(0.01)
        (self.folder / "waiting").unlink(missing_ok=True)
        return [
            Failure(event_id, "refused on request" if event_id in refused else "busy", event_id not in refused)
            for event_id in batch.ids
            if event_id not in taken
        ]

    def read(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    from polku.plugin import EmitterPlugin

    EmitterPlugin(FileStore(Path(os.environ["FOLDER"]))).run()
