"""Events of a running pipeline, as its admin address shows them, and `polku tap`."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from polku import Aggregator, Batch, BufferStrategy, Event, Failure, Filter, Hub, Pipeline, Transform, new_event
from polku.monitoring.run_files import running
from tests.monitoring.test_admin import get
from tests.support.server import POLKU, environment, polku_here


def mark(event: Event) -> None:
    event.metadata["seen"] = "yes"


def partner(batch: Batch) -> list[Failure]:
    return [Failure(event.id, "unknown order", retryable=False) for event in batch if event.event_type == "odd"]


HUB = Hub().redact("Authorization").middleware(Filter(lambda e: e.event_type != "debug")).middleware(Transform(mark))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with HUB.emitter(partner).start(runtime="inline", admin_addr="127.0.0.1:0") as pipeline:
        yield pipeline


class Looker:
    """One who looks at the events of a pipeline."""

    def __init__(self, pipeline: Pipeline, **query: object) -> None:
        self.address = pipeline.admin_address
        self.path = f"/tap?{urlencode({'session': str(time.monotonic_ns()), **query}, doseq=True)}"
        (here,) = [one for one in running() if one.admin == self.address]
        self.headers = {"Authorization": f"Bearer {here.key}"}
        self.look()

    def look(self) -> dict[str, Any]:
        status, body, _ = get(self.address, self.path, self.headers)
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Return what is seen once so much is."""
        seen: list[dict[str, Any]] = []
        limit = time.monotonic() + 30
        while len(seen) < count:
            assert time.monotonic() < limit, seen
            time.sleep(0.01)
            seen += self.look()["events"]
        return seen


def send(pipeline: Pipeline, *kinds: str, **metadata: str) -> None:
    events = [new_event(kind, id=f"{kind}-1", source="shop", metadata=metadata) for kind in kinds]
    pipeline.sender().send(events)


def fates(seen: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["part"].partition("(")[0], one["what"], one.get("reason", "")) for one in seen]


ALL = dict.fromkeys(("in", "out", "dropped", "refused", "dead"), "*")


def test_the_journey_of_one_event_leads_through_every_part(pipeline: Pipeline) -> None:
    looker = Looker(pipeline, id="odd-1", **ALL)
    send(pipeline, "paid", "odd")
    assert fates(looker.wait_for(9)) == [
        ("ingest", "out", ""),
        ("stage-1/Filter", "in", ""),
        ("stage-1/Filter", "out", ""),
        ("stage-1/Transform", "in", ""),
        ("stage-1/Transform", "out", ""),
        ("buffer", "in", ""),
        ("buffer", "out", "held for partner"),
        ("emitter:partner", "in", ""),
        ("emitter:partner", "dead", "unknown order"),
    ]


def test_what_middleware_drops_is_shown_with_its_reason_and_without_what_is_redacted(pipeline: Pipeline) -> None:
    looker = Looker(pipeline, dropped="*")
    send(pipeline, "paid", "debug", authorization="secret", page="7")
    (seen,) = looker.wait_for(1)
    assert fates([seen]) == [("stage-1/Filter", "dropped", "filtered")]
    assert seen["event"]["metadata"] == {"authorization": "[redacted]", "page": "7"}


def test_what_is_refused_is_shown_by_its_id_and_code(pipeline: Pipeline) -> None:
    looker = Looker(pipeline, refused="ingest")
    pipeline.sender().send([new_event("paid", id="x" * 5_000, source="shop")])
    (seen,) = looker.wait_for(1)
    assert (seen["part"], seen["what"]) == ("ingest", "refused")
    assert seen["code"]
    assert "event" not in seen


def test_events_are_shown_as_messages_where_they_are_asked_for_so(pipeline: Pipeline) -> None:
    looker = Looker(pipeline, out="partner", form="protobuf")
    send(pipeline, "paid", page="1")
    (seen,) = looker.wait_for(1)
    event = Event.FromString(base64.b64decode(seen["event_protobuf"]))
    assert (event.id, event.event_type, event.metadata["page"]) == (seen["id"], "paid", "1")
    assert "event" not in seen


def test_middleware_that_holds_events_shows_what_it_takes_and_what_it_makes() -> None:
    hub = Hub(runtime="inline").middleware(Aggregator(2, 60.0)).emitter(partner)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        looker = Looker(pipeline, **{"in": "Aggregator*", "out": "Aggregator*"})
        pipeline.sender().send([new_event("paid", id=id, source="shop") for id in "ab"])
        seen = looker.wait_for(3)
    assert [one["what"] for one in seen] == ["in", "in", "out"]
    assert [one["id"] for one in seen[:2]] == ["a", "b"]
    assert seen[2]["id"] not in ("a", "b")


@pytest.mark.parametrize("rule", ["drop_oldest", "drop_newest"])
def test_what_falls_to_the_overflow_rule_is_shown(rule: str) -> None:
    async def down(batch: Batch) -> None:
        raise ConnectionError("down")

    hub = Hub(runtime="inline").buffer_strategy(BufferStrategy.ring(8, overflow=rule)).emitter(down)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        looker = Looker(pipeline, dropped="*")
        sender = pipeline.sender()
        for number in range(12):
            sender.send([new_event("n", id=str(number), source="shop")])
        seen = looker.wait_for(4)
        pipeline.stop(0.0)
    assert {one["part"] for one in seen} == {"emitter:down"}
    assert all("share of the buffer was full" in one["reason"] for one in seen)
    numbers = [int(one["id"]) for one in seen]
    first = 8 if rule == "drop_newest" else numbers[0]
    assert numbers == list(range(first, first + 4))
    assert first < 5 or rule == "drop_newest"  # what is in flight is not dropped


def test_only_who_runs_the_pipeline_or_has_its_token_sees_events(pipeline: Pipeline) -> None:
    status, body, _ = get(pipeline.admin_address, "/tap?session=a&out=*")
    assert (status, "POLKU_ADMIN_TOKEN" in body) == (401, True)
    assert get(pipeline.admin_address, "/tap?session=a&out=*", {"Authorization": "Bearer guess"})[0] == 401
    with Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0", admin_token="t0ken") as other:
        assert get(other.admin_address, "/tap?session=a&out=*", {"Authorization": "Bearer t0ken"})[0] == 200


@pytest.mark.parametrize(
    "query", ["", "session=", f"session={'x' * 65}", "session=a&limit=0", "session=a&odd=*", "session=a&form=xml"]
)
def test_a_wrong_question_is_answered_with_what_is_wrong(pipeline: Pipeline, query: str) -> None:
    (here,) = [one for one in running() if one.admin == pipeline.admin_address]
    status, body, _ = get(pipeline.admin_address, f"/tap?{query}", {"Authorization": f"Bearer {here.key}"})
    assert (status, body.count("\n")) == (400, 1)


def test_a_file_has_each_event_once_wherever_it_passes(pipeline: Pipeline, tmp_path: Path) -> None:
    ended, file = threading.Event(), tmp_path / "some.ndjson"

    def keep_sending() -> None:
        while not ended.wait(0.01):
            pipeline.sender().send([new_event("paid", source="shop")])

    sending = threading.Thread(target=keep_sending)
    sending.start()
    try:
        options = ["--interval", "50", "--duration-ms", "1000", "--to-file", str(file)]
        tapped = polku_here("tap", "--to", str(pipeline.admin_address), *options)
    finally:
        ended.set()
        sending.join()
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    seen = {json.loads(line)["id"] for line in tapped.stdout.splitlines()}
    assert len(tapped.stdout.splitlines()) > len(seen)
    assert sorted(ids) == sorted(seen)


def test_a_process_prints_what_passes_and_writes_what_send_reads(pipeline: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "some.ndjson"
    where = "event.event_type.startswith('p')"
    command = ["tap", "partner", "--to", str(pipeline.admin_address), "--where", where, "--to-file", str(file)]
    with subprocess.Popen([*POLKU, *command], stdout=subprocess.PIPE, text=True, env=environment()) as tap:
        assert tap.stdout is not None
        while not (lines := file.read_text().splitlines() if file.exists() else []):
            assert tap.poll() is None
            send(pipeline, "paid", "unpaid")
            time.sleep(0.02)
        seen = json.loads(tap.stdout.readline())
        tap.terminate()
    assert (seen["part"], seen["what"], seen["event"]["event_type"]) == ("emitter:partner", "out", "paid")
    assert seen["event"]["metadata"] == {"seen": "yes"}
    assert json.loads(lines[0]) == seen["event"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], {"ingest out", "stage-1/Filter out", "stage-1/Transform out", "buffer out", "emitter:partner out"}),
        (["partner", "buffer"], {"buffer out", "emitter:partner out"}),
        (["--outputs-of", "stage-1"], {"stage-1/Filter out", "stage-1/Transform out"}),
        (["--inputs-of", "*Filter*", "--outputs-of", "buffer"], {"stage-1/Filter in", "buffer out"}),
        (["--dropped"], {"stage-1/Filter dropped filtered"}),
        (["--dead"], {"emitter:partner dead unknown order"}),
        (["--refused"], {"ingest refused"}),
        (["--dropped", "--dead", "partner"], {"emitter:partner dead unknown order"}),
        (["--id", "debug-1"], {"ingest out", "stage-1/Filter in", "stage-1/Filter dropped filtered"}),
        (["--where", "event.event_type == 'debug'"], {"ingest out"}),
    ],
)
def test_each_option_shows_what_it_says(pipeline: Pipeline, options: list[str], shown: set[str]) -> None:
    command = ["tap", *options, "--to", str(pipeline.admin_address), "--interval", "50", "--limit", "1000"]
    found: set[str] = set()
    with subprocess.Popen([*POLKU, *command], stdout=subprocess.PIPE, text=True, env=environment()) as tap:
        assert tap.stdout is not None
        ended = threading.Event()
        sending = threading.Thread(target=send_again_and_again, args=(pipeline, ended))
        sending.start()
        try:
            limit = time.monotonic() + 60
            while not found >= shown and time.monotonic() < limit:
                one = json.loads(tap.stdout.readline())
                part = one["part"].partition("(")[0]
                found.add(f"{part} {one['what']} {one['reason'] if one['what'] in ('dropped', 'dead') else ''}".strip())
        finally:
            ended.set()
            sending.join()
            tap.send_signal(signal.SIGINT)
        assert tap.wait(120) in (0, 130)  # it has told the pipeline that it ends
    assert found == shown


def send_again_and_again(pipeline: Pipeline, ended: threading.Event) -> None:
    while not ended.wait(0.02):
        send(pipeline, "paid", "debug", "odd")
        pipeline.sender().send([new_event("paid", id="x" * 5_000, source="shop")])


def test_no_more_of_each_part_is_shown_than_the_limit_and_the_rest_is_counted(pipeline: Pipeline) -> None:
    ended = threading.Event()
    sending = threading.Thread(target=send_again_and_again, args=(pipeline, ended))
    sending.start()
    try:
        options = ["--limit", "2", "--interval", "500", "--duration-ms", "900"]
        done = polku_here("tap", "ingest", "--to", str(pipeline.admin_address), *options)
    finally:
        ended.set()
        sending.join()
    assert 2 <= len(done.stdout.splitlines()) <= 6  # of two or three looks
    assert "a sample: 2 of " in done.stderr


def test_a_tap_that_is_terminated_is_ended_at_once() -> None:
    with Hub(runtime="inline").emitter(partner).start(admin_addr="127.0.0.1:0") as pipeline:
        runtime: Any = pipeline._runtime

        def looked_at() -> bool:
            return any(part.tap is not None for part in runtime._lane.tapped().values())

        command = [*POLKU, "tap", "--to", str(pipeline.admin_address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as tap:
            limit = time.monotonic() + 60
            while not looked_at():
                assert time.monotonic() < limit
                time.sleep(0.05)
            tap.terminate()
            tap.wait(120)
        assert not looked_at()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["nothing"], "no part is called so; there are buffer, emitter:partner, ingest, stage-1/Filter"),
        (["--where", "event."], "is no Python expression"),
        (["--format", "xml"], "choose one of text, json, logfmt"),
        (["--to-file", "/nonexistent/x"], "cannot be written"),
    ],
)
def test_wrong_options_are_named(pipeline: Pipeline, options: list[str], text: str) -> None:
    done = polku_here("tap", "--to", str(pipeline.admin_address), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr


def test_the_formats_are_for_people_and_programs(pipeline: Pipeline) -> None:
    from polku.cli.sightings import as_logfmt, as_text

    looker = Looker(pipeline, dead="*")
    send(pipeline, "odd", note='say "hi"\nagain')
    (seen,) = looker.wait_for(1)
    text = as_text(seen)
    assert "\n" not in text
    assert text[12:].split()[:4] == ["emitter:partner", "dead", "odd", "odd-1"]
    assert text.endswith("(UNDELIVERED: unknown order)")
    assert 'reason="unknown order" id=odd-1 source=shop event_type=odd' in as_logfmt(seen)
    assert r'metadata.note="say \"hi\"\\nagain"' in as_logfmt(seen)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("chained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_on_ray_the_journey_is_the_same(chained: bool) -> None:
    hub = Hub().middleware(Filter(lambda event: event.event_type != "debug")).emitter(partner)
    hub = hub.chain() if chained else hub
    with hub.start(runtime="ray", admin_addr="127.0.0.1:0") as pipeline:
        looker = Looker(pipeline, id="odd-1", **ALL)
        send(pipeline, "paid", "odd")
        seen = fates(looker.wait_for(7))
        told = polku_here("explain", "odd-1", "--to", str(pipeline.admin_address))
        assert polku_here("explain", "paid-1", "--to", str(pipeline.admin_address)).stdout.startswith(
            "emitter:partner: delivered at "
        )
    assert told.stdout.startswith("emitter:partner: a dead letter since ")
    assert [(part, what) for part, what, _ in seen] == [
        ("ingest", "out"),
        ("stage-1/Filter", "in"),
        ("stage-1/Filter", "out"),
        ("buffer", "in"),
        ("buffer", "out"),
        ("emitter:partner", "in"),
        ("emitter:partner", "dead"),
    ]
