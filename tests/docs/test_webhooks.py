"""The recipes for webhooks give each sender the answers that it needs, and make one event of what it repeats."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from polku import Event, Hub, Pipeline
from tests.docs.pages import ROOT, blocks
from tests.support.ports import free_port
from tests.support.recorder import Recorder

GITHUB, SLACK, STRIPE = "It's a Secret to Everybody", "8f742231b10e8888abcd99yyyzzz85a5", "whsec_test"
ALERTMANAGER = shutil.which("prometheus-alertmanager")


@contextmanager
def recipe(program: str, out: Recorder, port: int = 0) -> Iterator[Pipeline]:
    """Run a program of the page, with `out` as its emitter."""
    (text,) = [one.text for one in blocks(ROOT / "docs" / "recipes.md") if one.text.startswith(f"# {program}\n")]
    changed = text.replace(".emitter(StdoutEmitter())", ".emitter(out)")
    assert changed != text
    names: dict[str, Any] = {"out": out}
    exec(compile(changed, program, "exec"), names)
    hub: Hub = names["hub"]
    with hub.start(runtime="inline", http_addr=f"127.0.0.1:{port}") as pipeline:
        yield pipeline


def post(pipeline: Pipeline, source: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Send what a webhook sends, from JSON; return status and body."""
    fields = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    url = f"http://{pipeline.http_address}/v1/events" + (f"?source={source}" if source else "")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, fields), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def sign(secret: str, signed: bytes) -> str:
    return hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def events_after(out: Recorder, pipeline: Pipeline) -> list[Event]:
    """Return what came out in all: what was taken twice had its time."""
    assert pipeline.stop(30).complete
    assert not pipeline.dead_letters()
    return out.events()


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the files that the recipes name into the folder in which they run."""
    monkeypatch.chdir(tmp_path)
    for name, secret in (("github", GITHUB), ("slack", SLACK), ("stripe", STRIPE)):
        Path(f"{name}.secret").write_text(secret)


@pytest.fixture
def out(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "out")


def test_a_delivery_of_github_that_is_sent_again_is_answered_and_is_one_event(out: Recorder) -> None:
    body = b'{"zen": "Keep it logically awesome."}'
    signature = "sha256=" + sign(GITHUB, body)
    with recipe("channels.py", out) as pipeline:
        for delivery in ("d-1", "d-1", "d-2"):
            headers = {"X_GitHub_Event": "ping", "X_GitHub_Delivery": delivery, "X_Hub_Signature_256": signature}
            status, answer = post(pipeline, "github", body, **headers)
            assert (status, json.loads(answer)["event_ids"]) == (200, [delivery])
        headers |= {"X_GitHub_Delivery": "d-3"}
        assert post(pipeline, "github", body + b" ", **headers)[0] == 401
        del headers["X_Hub_Signature_256"]
        assert post(pipeline, "github", body, **headers)[0] == 401
        found = events_after(out, pipeline)
    assert [(event.id, event.event_type, event.payload) for event in found] == [
        ("d-1", "github.ping", body),
        ("d-2", "github.ping", body),
    ]


def slack(body: bytes, moment: int, secret: str = SLACK) -> dict[str, str]:
    """Return the headers of Slack's request."""
    signed = b"v0:%d:%s" % (moment, body)
    return {"X_Slack_Request_Timestamp": str(moment), "X_Slack_Signature": "v0=" + sign(secret, signed)}


def test_slack_reads_its_challenge_and_what_it_sends_again_is_one_event(out: Recorder) -> None:
    challenge = b'{"type": "url_verification", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmd"}'
    body = b'{"type": "event_callback", "event_id": "Ev1", "event": {"type": "reaction_added"}}'
    now = int(time.time())
    with recipe("channels.py", out) as pipeline:
        assert post(pipeline, "slack", challenge, **slack(challenge, now)) == (200, b"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmd")
        for attempt in range(4):
            again = {"X_Slack_Retry_Num": str(attempt), "X_Slack_Retry_Reason": "http_timeout"} if attempt else {}
            assert post(pipeline, "slack", body, **slack(body, now + attempt), **again)[0] == 200
        for forged in (slack(body, now, "other"), slack(body, now - 301), slack(challenge, now), {}):
            assert post(pipeline, "slack", body, **forged)[0] == 401
        (event,) = events_after(out, pipeline)
    assert (event.id, event.event_type, event.payload) == ("Ev1", "slack.reaction_added", body)


def test_an_event_that_stripe_repeats_with_another_signature_is_one_event(out: Recorder) -> None:
    body = b'{"id": "evt_1", "type": "charge.succeeded"}'
    now = int(time.time())

    def signed(moment: int, secret: str = STRIPE) -> dict[str, str]:
        return {"Stripe_Signature": f"t={moment},v1={sign(secret, b'%d.%s' % (moment, body))}"}

    with recipe("hooks.py", out) as pipeline:
        for moment in (now - 60, now):
            status, answer = post(pipeline, "stripe", body, **signed(moment))
            assert (status, json.loads(answer)["event_ids"]) == (200, ["evt_1"])
        for forged in (signed(now, "other"), signed(now - 301), {}):
            assert post(pipeline, "stripe", body, **forged)[0] == 401
        (event,) = events_after(out, pipeline)
    assert (event.id, event.event_type, event.payload) == ("evt_1", "stripe.charge.succeeded", body)


def test_a_cloudevent_that_a_broker_of_knative_repeats_is_one_event_and_has_no_body_in_its_answer(
    out: Recorder,
) -> None:
    headers = {"Prefer": "reply", "Ce_Specversion": "1.0", "Ce_Source": "/sensors/kitchen", "Ce_Type": "dev.reading"}
    with recipe("sink.py", out) as pipeline:
        for name in ("7", "7", "8"):
            assert post(pipeline, "", b'{"temperature": 21}', **headers, Ce_Id=name) == (204, b"")
        status, answer = post(pipeline, "", b"{}", **{**headers, "Ce_Specversion": "9"}, Ce_Id="9")
        assert (status, bool(answer)) == (400, True)
        found = events_after(out, pipeline)
    assert [(event.id, event.event_type, event.source) for event in found] == [
        ("7", "dev.reading", "/sensors/kitchen"),
        ("8", "dev.reading", "/sensors/kitchen"),
    ]


ROUTES = """
route: {{receiver: polku, group_wait: 0s, group_interval: 1s, repeat_interval: 1s}}
receivers:
  - name: polku
    webhook_configs: [{{url: "http://127.0.0.1:{port}/v1/events?source=alertmanager"}}]
"""


@contextmanager
def alertmanager(folder: Path, port: int) -> Iterator[Callable[[str, float], None]]:
    """Run one that sends to a port; yields what tells it of an alert, and when it ends, in seconds from now."""
    own = free_port()
    (folder / "alerts.yml").write_text(ROUTES.format(port=port))
    addresses = [f"--web.listen-address=127.0.0.1:{own}", "--cluster.listen-address="]
    files = [f"--config.file={folder / 'alerts.yml'}", f"--storage.path={folder / 'data'}"]

    def call(path: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{own}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200

    def tell(name: str, seconds: float) -> None:
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        alert = {"labels": {"alertname": name}, "startsAt": "2026-11-28T23:00:00Z", "endsAt": end}
        call("/api/v2/alerts", json.dumps([alert]).encode())

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(ALERTMANAGER), *addresses, *files], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                call("/-/ready")
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield tell
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(ALERTMANAGER is None, reason="prometheus-alertmanager is not installed")
def test_alertmanager_sends_again_what_is_refused_and_what_it_repeats_is_one_event_and_its_end_another(
    out: Recorder, tmp_path: Path
) -> None:
    port = free_port()
    with alertmanager(tmp_path, port) as tell:
        tell("DiskFull", 600)  # nobody is there who takes it
        locked = Hub(runtime="inline").emitter(out).start(http_addr=f"127.0.0.1:{port}", http_token="secret")
        wait_for(lambda: locked.statistics().lanes[0].ingest.unauthenticated > 1)  # type: ignore[union-attr]
        assert locked.stop(30).complete
        with recipe("hooks.py", out, port) as pipeline:
            (fired,) = out.wait_for(1, 60)
            ingested = received(pipeline)
            wait_for(lambda: received(pipeline) >= ingested + 3)  # the same again, each second
            tell("DiskFull", -1)
            out.wait_for(2, 60)
            fired, resolved = events_after(out, pipeline)
    assert (fired.event_type, resolved.event_type) == ("alert.firing", "alert.resolved")
    assert fired.metadata["alertname"] == resolved.metadata["alertname"] == "DiskFull"
    name = fired.id.removesuffix("-2026-11-28T23:00:00Z-firing")
    assert resolved.id == f"{name}-2026-11-28T23:00:00Z-resolved"
    assert name not in ("", fired.id)


def received(pipeline: Pipeline) -> int:
    """Return how many messages came in."""
    ingest = pipeline.statistics().lanes[0].ingest
    assert ingest is not None
    return ingest.accepted


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
