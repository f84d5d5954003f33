"""What was pushed counts as under way until it is discharged, whoever still waits for it."""

from __future__ import annotations

import asyncio

import pytest

from polku import Event, new_event
from polku.batch import Batch
from polku.errors import InputError
from polku.gateway.intake import Intake
from polku.limits import Limits
from polku.link import Link, Local
from polku.receipt import Receipt
from polku.v1.gateway_pb2 import IngestEvent


class Stuck:
    """Take batches and answer when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def push(self, batch: Batch) -> Receipt:
        await self.go_on.wait()
        return Receipt()


def request(event: Event) -> bytes:
    return IngestEvent(source="test", event=event).SerializeToString()


async def test_a_client_that_leaves_takes_nothing_back() -> None:
    stuck = Stuck()
    message = request(new_event("user.login", source="test"))
    intake = Intake({}, None, Link("link", Local(stuck)), Limits(open_bytes=3 * len(message)))
    for left in range(1, 4):
        call = asyncio.create_task(intake.event(message))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert intake.statistics().open == left
    with pytest.raises(InputError, match="under way already"):
        await intake.event(message)
    stuck.go_on.set()
    await intake.drain()
    assert (intake.statistics().open, intake.statistics().accepted) == (0, 3)
    assert (await intake.event(message)).event_ids
    await intake.close()
