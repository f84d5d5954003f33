"""`polku replay` and `polku record`: what another version of a pipeline makes of the same events."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from polku import Aggregator, Event, Filter, Hub, StdoutEmitter, Transform, new_event
from polku.testing.replay import compare, fates_of, replay
from tests.support.server import polku, polku_here

OLD = """
from polku import Deduplicator, Filter, Hub, Router, StdoutEmitter, Transform
import words  # there is another one next to the new version


def classify(event):
    event.metadata["urgent"] = words.urgency(event.payload)


hub = (
    Hub()
    .middleware(Filter(lambda event: event.event_type != "noise"), name="no noise")
    .middleware(Deduplicator(ttl=60))
    .middleware(Transform(classify))
    .emitter(StdoutEmitter(), name="audit")
)
"""
START = 1_780_000_000_000_000_000


def versions(folder: Path) -> tuple[Path, Path]:
    """Write two versions, each with a module of the same name next to it."""
    for name, rule in (("old", 'b"down" in payload'), ("new", 'b"down" in payload or b"slow" in payload')):
        (folder / name).mkdir()
        (folder / name / "words.py").write_text(f"def urgency(payload):\n    return 'yes' if {rule} else 'no'\n")
        (folder / name / "pipeline.py").write_text(OLD)
    return folder / "old" / "pipeline.py", folder / "new" / "pipeline.py"


def recorded(folder: Path, *events: Event) -> str:
    file = folder / "events.ndjson"
    lines = [
        {"id": one.id, "event_type": one.event_type, "timestamp_unix_ns": one.timestamp_unix_ns, "source": one.source}
        | ({"metadata": dict(one.metadata)} if one.metadata else {})
        for one in events
    ]
    file.write_text("\n".join(map(json.dumps, lines)) + "\nnonsense\n")
    return str(file)


def at(seconds: float, event_id: str, kind: str = "order") -> Event:
    return new_event(kind, id=event_id, source="shop", timestamp_unix_ns=START + int(seconds * 1e9))


def test_two_versions_are_compared_event_by_event(tmp_path: Path) -> None:
    old, new = versions(tmp_path)
    file = tmp_path / "events.ndjson"
    texts = {"1": "mail is down", "2": "mail is slow", "3": "hello"}
    file.write_text("\n".join(json.dumps({"id": one, "payload": _base64(text)}) for one, text in texts.items()))

    done = polku("replay", str(file), str(new), "--against", str(old))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        '2\n  metadata.urgent at audit\n    before  "no"\n    after   "yes"\n2 events alike, 1 differ\n'
    )


def test_the_same_version_makes_no_difference(tmp_path: Path) -> None:
    old, _ = versions(tmp_path)
    file = recorded(tmp_path, at(0, "1"), at(1, "2", "noise"))
    done = polku("replay", file, str(old), "--against", str(old), "--json")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{file}:3: not JSON" in done.stderr


def test_time_passes_as_it_did(tmp_path: Path) -> None:
    hub = f"{OLD.replace('import words', '#')}".replace("words.urgency(event.payload)", "'no'")
    (tmp_path / "pipeline.py").write_text(hub)
    file = recorded(tmp_path, at(0, "1"), at(59, "1"), at(61, "1"), at(61, "2", "noise"))
    pipeline = str(tmp_path / "pipeline.py")
    shown = {speed: polku_here("replay", file, pipeline, "--speed", speed).stdout for speed in ("1x", "2x", "max")}
    counts = {speed: text.split()[1] for speed, text in shown.items()}
    assert counts == {"1x": "2", "2x": "1", "max": "1"}
    assert "dropped: no noise (filtered)" in shown["1x"]


def test_every_kind_of_difference_is_named() -> None:
    def fail(event: Event) -> None:
        if event.id == "3":
            raise ValueError("odd")

    events = [at(0, "1"), at(0, "2"), at(0, "3"), at(0, "4")]
    before = Hub().emitter(StdoutEmitter(), name="audit")
    after = (
        Hub()
        .middleware(Filter(lambda event: event.id != "2"), name="choose")
        .middleware(Transform(fail))
        .emitter(StdoutEmitter(), name="audit")
        .emitter(StdoutEmitter(), name="copy")
    )
    changes = compare(fates_of(replay(before, events)), fates_of(replay(after, events, speed=None)))
    by_id: dict[str, list[tuple[str, str, str]]] = {}
    for change in changes:
        by_id.setdefault(change.event_id, []).append(change[1:])
    assert list(by_id) == ["1", "2", "3", "4"]
    assert by_id["1"] == by_id["4"] == [("to", "audit", "audit, copy")]
    assert by_id["2"] == [("to", "audit", "-"), ("dropped", "-", "choose (filtered)")]
    assert [what for what, *_ in by_id["3"]] == ["to", "dead", "refused"]


def test_events_that_a_pipeline_makes_are_compared_by_their_place() -> None:
    hubs = [Hub().middleware(Aggregator(size=size, within=60)).emitter(StdoutEmitter()) for size in (2, 2, 4)]
    fates = [fates_of(replay(hub, [at(n, str(n)) for n in range(4)])) for hub in hubs]
    assert compare(fates[0], fates[1]) == []
    changed = compare(fates[0], fates[2])
    assert ("(made here, number 2 at stdout)", "to", "stdout", "-") in changed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nothing.ndjson", "x.py"), "EVENTS='nothing.ndjson': cannot be read"),
        (("nothing.ndjson", "x.py", "--speed", "fast"), "--speed='fast': write 1x, 10x, 0.5x or max"),
        (("nothing.ndjson", "x.py", "--speed", "0x"), "--speed='0x': write"),
    ],
)
def test_wrong_arguments_are_named(options: tuple[str, ...], said: str) -> None:
    done = polku_here("replay", *options)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_what_a_pipeline_is_given_is_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out.ndjson"
    hub = Hub(runtime="inline").middleware(Filter(lambda event: event.event_type != "noise"))
    done = threading.Event()
    with hub.emitter(lambda batch: None, name="nowhere").start(admin_addr="127.0.0.1:0") as pipeline:

        def send() -> None:
            number = 0
            while not done.wait(0.005):
                pipeline.sender().send(new_event("noise", id=str(number := number + 1), payload=b"x"))

        sending = threading.Thread(target=send)
        sending.start()
        try:
            said = polku_here("record", "--out", str(out), "--to", str(pipeline.admin_address), "--count", "5")
            wrong = polku_here("record", "--out", str(out), "--to", str(pipeline.admin_address), "--from", "inges")
        finally:
            done.set()
            sending.join()
    assert f"polku: 5 events written to {out}" in said.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["event_type"], line["payload"]) for line in lines] == [("noise", "eA==")] * 5
    assert "no part is called so; there are" in wrong.stderr

    (tmp_path / "pipeline.py").write_text(
        "from polku import Hub, StdoutEmitter\nhub = Hub().emitter(StdoutEmitter())\n"
    )
    assert polku_here("replay", str(out), str(tmp_path / "pipeline.py")).stdout == "stdout  5\n"


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def test_how_far_it_is_is_told() -> None:
    hub = Hub().emitter(StdoutEmitter())
    told: list[int] = []
    replay(hub, [at(number, f"{number}") for number in range(3)], progress=told.append)
    assert told == [1, 2, 3]
    told.clear()
    replay(hub, [at(number, f"{number}") for number in range(600)], speed=None, progress=told.append)
    assert told == [256, 512, 600]
