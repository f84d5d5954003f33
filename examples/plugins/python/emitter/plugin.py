"""An emitter plugin: each event becomes a line of a file."""

import os

from polku.plugin import Batch, EmitterPlugin, Failure


class Archive:
    name = "archive"

    def start(self):
        self.file = open(os.environ.get("ARCHIVE", "archive.log"), "a", encoding="utf-8")

    def close(self):
        self.file.close()

    def emit(self, batch: Batch):
        failures = []
        for event in batch:
            if event.event_type == "forbidden":
                failures.append(Failure(event.id, "the archive takes no forbidden events", retryable=False))
            else:
                print(event.id, event.event_type, file=self.file)
        self.file.flush()
        os.fsync(self.file.fileno())  # the answer confirms: the events must be safe by then
        return failures


if __name__ == "__main__":
    EmitterPlugin(Archive(), version="1.0.0").run()
