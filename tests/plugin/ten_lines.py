from collections.abc import Iterator

from polku.plugin import Event, IngestorPlugin, RecordError, new_event


def parse(data: bytes) -> Iterator[Event | RecordError]:
    for line in data.splitlines():
        yield RecordError("empty line", offset=data.index(b"\n\n") + 1) if not line else new_event("line", payload=line)


if __name__ == "__main__":
    IngestorPlugin(parse, sources="my-custom-source").run()
