"""The claim check on Ray: a stage that dies while payloads are on their way to the store loses none of them."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="object stores need it: pip install 'polku[s3]'")

from polku import ClaimCheck, Hub, Redeem, new_event
from tests.kafka.clients import wait_for
from tests.support.recorder import Recorder

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.slow]


def test_payloads_survive_the_death_of_both_stages(tmp_path: Path) -> None:
    recorder, store = Recorder(tmp_path / "out"), (tmp_path / "claims").as_uri()
    hub = Hub(runtime="ray").middleware(ClaimCheck(store, over=1_000)).middleware(Redeem(store)).emitter(recorder)
    payloads = {str(number): os.urandom(100_000) for number in range(200)}
    with hub.start() as pipeline:
        sender = pipeline.sender()

        def send() -> None:
            for event_id, payload in payloads.items():
                answer = sender.send(new_event("x", id=event_id, payload=payload), source="s")
                assert answer.ok, answer

        sending = threading.Thread(target=send)
        sending.start()
        for part in ("stage-1", "stage-2"):
            seen = len(recorder.events())
            wait_for(lambda seen=seen: len(recorder.events()) > seen + 10, 120)  # type: ignore[misc]
            os.kill(pipeline.statistics().processes[part].pid, signal.SIGKILL)
        sending.join(240)
        wait_for(lambda: {event.id for event in recorder.events()} == payloads.keys(), 120)
    for event in recorder.events():
        assert event.payload == payloads[event.id]
        assert "claim" not in event.metadata
