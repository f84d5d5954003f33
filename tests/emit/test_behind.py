"""The batches that wait behind the one that an emitter delivers."""

from __future__ import annotations

import asyncio

from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Receipt
from polku.emit.behind import WaitingBatches, behind, delivering_before
from polku.event.v1.event_pb2 import Event


async def test_a_batch_that_comes_while_nothing_waits_and_the_emitter_is_in_doubt_is_accepted() -> None:
    batches = WaitingBatches()
    outcome: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()

    async def deliver() -> Receipt:
        return await outcome

    with delivering_before(batches), behind().doubting():
        waiting = batches.add(Batch.from_events([Event(id="late")]))
        async with asyncio.timeout(30):
            answer = await batches.answer(waiting, deliver())
    assert isinstance(answer, Accepted)
    outcome.set_result(Receipt())
    assert await answer.outcome() == Receipt()
