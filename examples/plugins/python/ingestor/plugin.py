"""An ingestor plugin: each line `LEVEL MESSAGE` becomes an event."""

import hashlib

from polku.plugin import Event, IngestContext, IngestorPlugin, RecordError

SEVERITIES = {"debug": 1, "info": 2, "warning": 3, "error": 4, "critical": 5}


def parse(data: bytes, context: IngestContext):
    # The same bytes give the same ids, so that a payload that is sent again is known by them.
    digest = hashlib.sha256(context.source.encode() + b"\0" + data).hexdigest()[:16]
    offset = 0
    for line in data.splitlines(keepends=True):
        level, _, message = line.decode(errors="replace").strip().partition(" ")
        if level.lower() in SEVERITIES:
            yield Event(
                id=f"{digest}-{offset}",
                event_type="log.line",
                severity=SEVERITIES[level.lower()],
                payload=message.encode(),
            )
        elif level:
            yield RecordError(
                f"{level[:20]!r} is no level; begin each line with {', '.join(SEVERITIES)}", offset=offset
            )
        offset += len(line)


if __name__ == "__main__":
    IngestorPlugin(parse, sources="my-custom-source", name="my-plugin", version="1.0.0").run()
