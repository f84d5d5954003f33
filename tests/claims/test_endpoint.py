"""The claim check against an S3 endpoint, through a pipeline that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="object stores need it: pip install 'polku[s3]'")

from polku import ClaimCheck, Hub, Redeem, new_event
from tests.emit.s3_server import S3Server
from tests.support.recorder import Recorder


def test_payloads_go_to_the_bucket_and_what_is_deleted_there_is_said(tmp_path: Path) -> None:
    server = S3Server()
    url, recorder = "s3://events/claims", Recorder(tmp_path / "out")
    checking = ClaimCheck(url, over=1_000, options=server.options)
    redeeming = Redeem(url, options=server.options)
    payloads = [bytes([number]) * 1_500_000 for number in (1, 2)]
    try:
        with Hub(runtime="inline").middleware(checking).emitter(recorder).start() as pipeline:
            events = [new_event("x", id=str(number), payload=payload) for number, payload in enumerate(payloads)]
            assert pipeline.sender().send(events).ok
            checked = recorder.wait_for(2)
        first, second = sorted(server.objects())
        assert {server.objects()[name] for name in (first, second)} == set(payloads)
        kept = server.objects()[second]
        server.client().delete_object(Bucket="events", Key=first)
        back = Recorder(tmp_path / "back")
        with Hub(runtime="inline").middleware(redeeming).emitter(back).start() as pipeline:
            answer = pipeline.sender().send(checked)
            assert [one.payload for one in back.wait_for(1)] == [kept]
        assert ["there is no object" in refusal.message for refusal in answer.refused] == [True]
    finally:
        server.kill()
