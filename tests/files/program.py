"""A pipeline in a process of its own that follows files and writes each event down: to be killed by a test.

`python -m tests.files.program PATTERN FOLDER`
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from polku import BufferStrategy, FileSource, Hub
from tests.support.recorder import Recorder

pattern, folder = sys.argv[1:]
source = FileSource(pattern, poll_seconds=0.02, scan_seconds=0.05, commit_seconds=0.05)
hub = Hub(runtime="inline").source(source).emitter(Recorder(Path(folder, "out")))
hub.buffer_strategy(BufferStrategy.durable(Path(folder, "journal.db")))
with hub.start():
    print("ready", flush=True)
    while True:
        time.sleep(1)
