"""Deployments of Ray Serve as destination and as middleware, in a real Serve."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from polku import Event, Hub, Resilience, Retry, ServeEmitter, ServeMiddleware, new_event
from polku.testing import assert_emitter
from tests.emit.destinations import Folder
from tests.kafka.clients import wait_for
from tests.ray.serve_app import APP, Request, deploy
from tests.ray.shown import shown
from tests.support.recorder import Recorder

pytestmark = [
    pytest.mark.skipif(find_spec("fastapi") is None, reason="Ray Serve is not installed: pip install 'polku[serve]'"),
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def serving(ray_session: None) -> Iterator[None]:
    from ray import serve

    deploy(APP, replicas=2, ongoing=2, queued=1)
    yield
    serve.shutdown()


def request(folder: Path, event: Event) -> Request:
    return Request(str(folder), event)


class Serve(Folder):
    """A deployment that keeps what it gets in a folder."""

    def emitter(self) -> object:
        return ServeEmitter(APP, request=partial(request, self.folder), max_in_flight=1)


def test_the_emitter_keeps_the_contract() -> None:
    assert_emitter(Serve)


@pytest.mark.slow  # what failures mean is in tests/ray_serve
def test_a_full_deployment_and_a_dying_replica_cost_time_and_no_event(tmp_path: Path) -> None:
    """Requests queue one at a time, so that most are refused at first."""
    recorder = Recorder(tmp_path / "out")
    step = ServeMiddleware(APP, method="answer", request=partial(request, tmp_path), max_in_flight=16)
    kinds = {7: "raises", 13: "dies once", 20: "changes"}
    events = [new_event(kinds.get(number, "asks"), id=str(number)) for number in range(40)]
    with Hub(runtime="ray").middleware(step).emitter(recorder).start() as pipeline:
        answer = pipeline.sender().send(events, timeout=120)
        came = recorder.wait_for(39, timeout=120)
    assert {refusal.event_id for refusal in answer.refused} == {"7"}
    assert "ValueError: no answer" in answer.refused[0].message
    assert [event.id for event in came] == [str(number) for number in range(40) if number != 7]
    assert all(event.metadata["replica"] for event in came if event.id != "20")
    assert {event.event_type for event in came} == {"asks", "dies once", "answer"}
    assert (tmp_path / "asked").exists()


@pytest.mark.slow
def test_a_deployment_sends_what_it_answered_as_the_page_shows(tmp_path: Path) -> None:
    from ray import serve

    recorder = Recorder(tmp_path / "events")
    classifier: Any = shown("answering", tmp_path).Classifier
    with Hub(runtime="ray").emitter(recorder).start() as pipeline:
        bound = classifier.options(ray_actor_options={"num_cpus": 0}).bind(pipeline.sender())
        handle: Any = serve.run(bound, name="answering", route_prefix=None)
        assert handle.remote("hello").result(timeout_s=60) == {"label": "short", "recorded": True}
        (event,) = recorder.wait_for(1)
        serve.delete("answering")
    assert (event.event_type, event.payload, event.metadata["label"]) == ("prediction", b"hello", "short")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_not_deployed_yet_is_waited_for_and_an_event_that_ends_replicas_is_found(tmp_path: Path) -> None:
    emitter = ServeEmitter("later", method="answer", request=partial(request, tmp_path))
    with Hub(runtime="ray").emitter(Resilience(emitter, retry=Retry(limit=1))).start() as pipeline:
        kinds = {3: "dies", 5: "raises"}
        events = [new_event(kinds.get(number, "asks"), id=str(number)) for number in range(10)]
        assert pipeline.sender().send(events).ok
        deploy("later")
        wait_for(lambda: len(pipeline.dead_letters()) == 2, 500)
        letters = sorted(pipeline.dead_letters(), key=lambda letter: letter.event.id)
    assert [(letter.event.id, letter.reason) for letter in letters[1:]] == [
        ("5", "later.answer: ValueError: no answer")
    ]
    assert 'raise ValueError("no answer")' in letters[1].detail
    assert [(letter.event.id, letter.reason.partition(": ")[0]) for letter in letters[:1]] == [
        ("3", "3 replicas of later.answer died of it")
    ]
