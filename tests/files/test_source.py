"""The FileSource in a pipeline: real files, a real journal, and a process that is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polku import BufferStrategy, Event, FileSource, Hub, Limits, PlanError, Source
from polku.clock import SystemClock
from polku.files import offsets as offsets_module
from polku.files.offsets import Offsets
from polku.gateway import pulled_stream
from polku.testing import SourceCheck, source_checks
from tests.files.origin import GrowingFile
from tests.support.recorder import Recorder
from tests.support.server import polku_here

QUICK: dict[str, Any] = {"poll_seconds": 0.02, "scan_seconds": 0.05, "commit_seconds": 0.05}


@pytest.fixture
def out(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "app.log"


def append(path: Path, *lines: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def texts(events: list[Event]) -> list[str]:
    return [event.payload.decode() for event in events]


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stored(path: Path) -> dict[str, int]:
    files = json.loads(path.read_text())["files"]
    return {os.path.basename(file["path"]): file["offset"] for file in files}


@pytest.mark.parametrize("check", source_checks(GrowingFile.abilities), ids=str)
async def test_the_source_keeps_the_contract(check: SourceCheck) -> None:
    await check.run(GrowingFile())


def test_lines_become_events_and_a_restart_goes_on_behind_them(tmp_path: Path, log: Path, out: Recorder) -> None:
    append(log, "one", "two")
    hub = Hub(runtime="inline").source(FileSource(log.parent / "*.log", **QUICK)).emitter(out)
    hub.buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db"))
    with hub.start() as pipeline:
        one, two = out.wait_for(2)
        healthy, text = pipeline.health().components["source:file"]
        assert healthy
        assert "1 file, " in text
        assert pipeline.stop(30).complete
    assert texts([one, two]) == ["one", "two"]
    assert (one.event_type, one.source, one.metadata["file.path"]) == ("log.line", str(log), str(log))
    assert one.timestamp_unix_ns > 0
    offsets = tmp_path / "journal.db.file.offsets"
    assert stored(offsets) == {"app.log": 8}
    assert offsets.stat().st_mode & 0o777 == 0o600
    append(log, "three")
    append(log.parent / "new.log", "all")
    with hub.start():
        assert sorted(texts(out.wait_for(4))[2:]) == ["all", "three"]


def test_offsets_say_no_more_than_what_is_delivered_where_that_is_asked_for(
    tmp_path: Path, log: Path, out: Recorder
) -> None:
    append(log, "one", "two")
    out.hold()
    offsets = tmp_path / "offsets.json"
    source = FileSource(log, offsets=offsets, **QUICK)
    with Hub(runtime="inline").source(source).ack("delivered").emitter(out).start() as pipeline:
        wait_for(lambda: "2 records, 2 in flight" in pipeline.health().components["source:file"][1])
        wait_for(offsets.exists)
        assert stored(offsets) == {"app.log": 0}
        out.release()
        wait_for(lambda: stored(offsets) == {"app.log": 8})


def test_a_pipeline_that_takes_nothing_bounds_what_is_read(log: Path, out: Recorder) -> None:
    append(log, *(f"{number:06d} {'x' * 500}" for number in range(5_000)))
    out.hold()
    source = FileSource(log, window=100, **QUICK)
    hub = Hub(runtime="inline").source(source).buffer_strategy(BufferStrategy.ring(50)).emitter(out)
    with hub.start() as pipeline:

        def in_flight() -> int:
            found = re.search(r"(\d+) in flight", pipeline.health().components["source:file"][1])
            return int(found[1]) if found else 0

        wait_for(lambda: in_flight() >= 100)
        assert in_flight() <= 100 + 128 * 1024 // 500
        out.release()
        got = out.wait_for(5_000, 60)
    assert [text[:6] for text in texts(got)] == [f"{number:06d}" for number in range(5_000)]


def test_records_of_several_lines_come_whole_and_the_last_one_after_a_pause(log: Path, out: Recorder) -> None:
    append(log, "Traceback", "  File 1", "  File 2", "started", "  slowly")
    source = FileSource(log, multiline=r"^\S", multiline_seconds=0.05, **QUICK)
    with Hub(runtime="inline").source(source).emitter(out).start():
        assert texts(out.wait_for(2)) == ["Traceback\n  File 1\n  File 2", "started\n  slowly"]


def test_a_line_that_is_too_long_is_a_dead_letter_and_the_next_one_is_not(log: Path, out: Recorder) -> None:
    append(log, "one", "x" * 300_000, "two")
    source = FileSource(log, max_line_bytes=1_000, **QUICK)
    with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
        assert texts(out.wait_for(2)) == ["one", "two"]
        (letter,) = pipeline.dead_letters()
    assert letter.code == "TOO_LARGE"
    assert letter.reason.startswith(f"{log}, byte 4: a line is longer than 1000 bytes")


def test_a_line_that_is_too_long_can_be_cut(log: Path, out: Recorder) -> None:
    append(log, "x" * 2_000, "two")
    source = FileSource(log, max_line_bytes=1_000, too_long="cut", **QUICK)
    with Hub(runtime="inline").source(source).emitter(out).start():
        cut, two = out.wait_for(2)
    assert (cut.payload, cut.metadata["cut"]) == (b"x" * 1_000, "true")
    assert "cut" not in two.metadata


@pytest.mark.parametrize(
    ("bad_text", "payloads", "letters"),
    [
        ("replace", ["a\N{REPLACEMENT CHARACTER}b".encode(), b"fine"], []),
        ("keep", [b"a\xffb", b"fine"], []),
        ("refuse", [b"fine"], ["byte 1 is not UTF-8 (invalid start byte)"]),
    ],
)
def test_text_that_is_not_utf_8(
    log: Path, out: Recorder, bad_text: str, payloads: list[bytes], letters: list[str]
) -> None:
    log.parent.mkdir()
    log.write_bytes(b"a\xffb\nfine\n")
    source = FileSource(log, bad_text=bad_text, **QUICK)
    with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
        assert [event.payload for event in out.wait_for(len(payloads))] == payloads
        assert [letter.reason for letter in pipeline.dead_letters()] == [f"{log}, byte 0: {text}" for text in letters]


def test_records_can_be_json_and_bytes_for_an_ingestor(log: Path, out: Recorder) -> None:
    append(log, '{"id": "a", "event_type": "t"}', "not json", '{"event_type": "u"}')
    append(log.parent / "lines.txt", "x")
    json_lines = FileSource(log, decode="json", source="app", **QUICK)
    raw = FileSource(log.parent / "lines.txt", decode="ingestor", source="mine", name="raw", **QUICK)

    def parse(data: bytes) -> list[Event]:
        return [Event(event_type="parsed", payload=data)]

    hub = Hub(runtime="inline").ingestor(parse, source="mine").source(json_lines).source(raw).emitter(out)
    with hub.start() as pipeline:
        got = {event.event_type: event for event in out.wait_for(3)}
        wait_for(pipeline.dead_letters)
        (letter,) = pipeline.dead_letters()
    assert {name: event.source for name, event in got.items()} == {"t": "app", "u": "app", "parsed": "mine"}
    assert got["t"].id == "a"
    assert got["u"].id.endswith("-40-60")
    assert letter.reason.startswith(f"{log}, byte 31: ")


def test_offsets_that_cannot_be_read_end_the_start_and_say_why(tmp_path: Path, log: Path, out: Recorder) -> None:
    offsets = tmp_path / "offsets.json"
    offsets.write_text('{"format": 7}')
    with pytest.raises(PlanError, match=r"offsets.json: it cannot be read \(it has not format 1\); move it away"):
        Hub(runtime="inline").source(FileSource(log, offsets=offsets)).emitter(out).start().wait_ready()


def test_offsets_belong_to_one_pipeline_at_a_time(
    tmp_path: Path, log: Path, out: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, "one")
    offsets = tmp_path / "offsets.json"
    monkeypatch.setattr(pulled_stream, "_LONGEST_PAUSE", 0.2)
    holder = Offsets(str(offsets))
    holder.hold()
    with Hub(runtime="inline").source(FileSource(log, offsets=offsets, **QUICK)).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:file"][0])
        assert "another pipeline uses it" in pipeline.health().components["source:file"][1]
        holder.release()
        assert texts(out.wait_for(1, 30)) == ["one"]


def test_a_disk_that_takes_no_offsets_is_an_alarm_and_nothing_is_read_without_a_known_id(
    tmp_path: Path, log: Path, out: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, "one")
    save, full = Offsets.save, True

    def failing(self: Offsets, entries: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        save(self, entries)

    monkeypatch.setattr(offsets_module.Offsets, "save", failing)
    source = FileSource(log, offsets=tmp_path / "offsets.json", **QUICK)
    with Hub(runtime="inline").source(source).emitter(out).start() as pipeline:
        wait_for(lambda: not pipeline.health().components["source:file"][0])
        assert "No space left on device" in pipeline.health().components["source:file"][1]
        assert out.events() == []
        full = False
        out.wait_for(1)
        wait_for(lambda: pipeline.health().components["source:file"][0])


def test_a_reload_goes_on_where_the_source_before_was(tmp_path: Path, log: Path, out: Recorder) -> None:
    append(log, "one")

    def hub(**options: Any) -> Hub:
        made = Hub(runtime="inline").source(FileSource(log, **QUICK, **options)).emitter(out)
        return made.buffer_strategy(BufferStrategy.durable(tmp_path / "journal.db"))

    with hub().start() as pipeline:
        out.wait_for(1)
        pipeline.update_plan(hub(event_type="other").plan())
        append(log, "two")
        one, two = out.wait_for(2)
    assert (one.event_type, two.event_type, two.payload) == ("log.line", "other", b"two")


def rotate(log: Path, number: int, *, copies: bool) -> None:
    """Rotate as logrotate does: `.1` is the latest, three are kept."""
    for old in (2, 1):
        if (before := Path(f"{log}.{old}")).exists():
            before.rename(f"{log}.{old + 1}")
    if copies:
        shutil.copyfile(log, f"{log}.1")
        os.truncate(log, 0)
    else:
        log.rename(f"{log}.1")
        log.touch()


@pytest.mark.parametrize("copies", [False, True])
def test_nothing_is_lost_or_skipped_by_kills_and_rotations(tmp_path: Path, log: Path, copies: bool) -> None:
    out = Recorder(tmp_path / "out")
    append(log, "begin")

    def begin() -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "tests.files.program", str(log), str(tmp_path)]
        return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)

    written = 0

    def write(count: int) -> None:
        nonlocal written
        append(log, *(f"line {number}" for number in range(written, written + count)))
        written += count

    def came() -> set[str]:
        return set(texts(out.events()))

    for _ in range(2):
        process = begin()
        try:
            write(300)
            wait_for(lambda: f"line {written - 1}" in came(), 60)
            write(500)  # some of it is read, and some of that delivered
            rotate(log, 1, copies=copies)
            write(50)
            process.kill()
        finally:
            process.kill()
            process.communicate()
        write(50)
        rotate(log, 1, copies=copies)  # nobody looks
    append(log, "end")
    process = begin()
    try:
        expected = {"begin", "end"} | {f"line {number}" for number in range(written)}
        # Of two rotations without a look at them the file in between had a name that the pattern does not lead to.
        between = {f"line {n}" for start in (850, 1_750) for n in range(start - 50, start + 50)}
        wait_for(lambda: came() >= expected - between, 60)
    finally:
        process.terminate()
        process.communicate()
    by_id: dict[str, bytes] = {}
    for event in out.events():
        assert by_id.setdefault(event.id, event.payload) == event.payload, "an id stands for one record"
    assert len(set(by_id.values())) == len(by_id), "a record that came twice has the same id"


def test_only_the_first_lane_of_a_disk_follows_files(log: Path, out: Recorder) -> None:
    plan = replace(Hub(runtime="inline").source(FileSource(log)).emitter(out).plan(), lanes=3)
    assert [len(plan.lane(number).sources) for number in (1, 2, 3)] == [1, 0, 0]
    assert [len(plan.lane(number, place).sources) for number, place in ((1, 1), (2, 1), (3, 2))] == [1, 1, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_ingest_actor_follows_files_too(tmp_path: Path, log: Path, out: Recorder) -> None:
    append(log, *(f"line {number}" for number in range(100)))
    hub = Hub(runtime="ray").lanes(2).source(FileSource(log, offsets=tmp_path / "offsets.json", **QUICK)).emitter(out)
    with hub.start() as pipeline:
        got = out.wait_for(100, 60)
        assert pipeline.stop(30).complete
    assert texts(got) == [f"line {number}" for number in range(100)]
    assert stored(tmp_path / "offsets.json") == {"app.log": log.stat().st_size}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ""}, r"FileSource\(paths=''\): must be the path of a file"),
        ({"paths": []}, r"paths=\[\]\): must be a glob pattern"),
        ({"exclude": "*.gz"}, "must be a list of patterns"),
        ({"offsets": "folder/"}, "must be the path of a file"),
        ({"start": "now"}, "is not known; choose 'beginning' or 'end'"),
        ({"decode": "xml"}, "is not known; choose 'text', 'ingestor', 'json' or 'cloudevents'"),
        ({"decode": "ingestor"}, "needs source="),
        ({"multiline": "["}, "must be a regular expression"),
        ({"max_line_bytes": 0}, "must be a whole number of at least 1"),
        ({"too_long": "keep"}, "is not known; choose 'refuse' or 'cut'"),
        ({"bad_text": "ignore"}, "is not known; choose 'replace', 'keep' or 'refuse'"),
        ({"poll_seconds": 0}, "must be a number above 0"),
        ({"event_type": ""}, "must be a text, not empty"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        FileSource(**{"paths": "app.log", **options})


def test_it_keeps_the_contract_of_sources() -> None:
    assert isinstance(FileSource("app.log").build(SystemClock()), Source)
    with pytest.raises(PlanError, match="source 'x', which has no ingestor"):
        Hub(runtime="inline").source(FileSource("a", decode="ingestor", source="x")).emitter(print).plan()
    assert Limits().message_bytes >= FileSource("a").max_line_bytes, "a line fits into a message"


def test_a_pattern_without_a_file_is_warned_of_at_the_start_and_after_a_reload(
    log: Path, out: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    append(log, "one")
    append(log.parent / "app.log.gz", "x")

    def hub(*patterns: Path) -> Hub:
        return Hub(runtime="inline").source(FileSource(patterns, **QUICK)).emitter(out)

    def warned() -> list[str]:
        return re.findall(r"source file: no file matches (\S+):", caplog.text)

    excluded, nothing = log.parent / "*.gz", log.parent / "other-*.log"
    with hub(log, excluded).start(admin_addr=f"unix:{log.parent}/admin") as pipeline:
        out.wait_for(1)
        assert warned() == [str(excluded)]
        asked = polku_here("health", "--to", str(pipeline.admin_address)).stdout
        assert re.fullmatch(r"source:file: 1 file, .*; offsets are not stored\nready\n", asked)
        pipeline.update_plan(hub(nothing).plan())
        wait_for(lambda: warned() == [str(excluded), str(nothing)])
