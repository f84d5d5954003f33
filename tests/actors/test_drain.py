"""A drain on Ray waits for what is on its way back, and for nothing that is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from polku import BufferStrategy
from polku.actors import drain
from polku.actors.kept import kept_farewell
from tests.actors.under_load import ARRIVED, HELD, chain, running, until


class Method:
    """The method of an actor that answers so, one call after the other."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def remote(self) -> asyncio.Future[object]:
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        given = self.answers.pop(0)
        if isinstance(given, Exception):
            answer.set_exception(given)
        else:
            answer.set_result(given)
        return answer


async def test_an_actor_that_is_being_restarted_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_AGAIN_SECONDS", 0.0)
    away = ActorUnavailableError("it is being restarted", b"0" * 16)
    assert await drain.insist(Method(away, away, "drained")) == "drained"


@pytest.mark.parametrize("chained", [False, True])
async def test_an_ingest_that_dies_in_the_middle_of_a_drain_takes_nothing_more(
    chained: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = chain().buffer_strategy(BufferStrategy.durable(str(tmp_path / "journal.db")))
    async with running(hub.chain() if chained else hub, monkeypatch) as pipeline:
        HELD.add("out")
        await pipeline.send("a")
        draining = asyncio.ensure_future(drain.drain(pipeline.factory.parts()))
        async with asyncio.timeout(30):
            await until(lambda: kept_farewell(pipeline.lane.ingest.name).drains)
        pipeline.lane.ingest.kill(restart=True)
        late = await pipeline.send("b")
        assert [(error.code, error.message.partition(":")[0]) for error in late.errors] == [
            ("DRAINING", "the pipeline is stopping; send to another gateway, or again later")
        ]
        HELD.clear()
        await asyncio.wait_for(draining, 30)
    assert [event.id for event in ARRIVED["out"]] == ["a"]


async def test_an_actor_that_is_gone_is_not() -> None:
    with pytest.raises(ActorDiedError):
        await drain.insist(Method(ActorDiedError()))


async def test_what_became_of_events_is_asked_again_where_a_message_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_AGAIN_SECONDS", 0.0)
    lost = ActorUnavailableError("RpcError: Unavailable rpc_code: 14", b"0" * 16)
    assert await drain.answer_within(5.0, Method(lost, lost, "statistics")) == "statistics"
    assert await drain.answer_within(5.0, Method(ActorDiedError())) is None
    assert await drain.answer_within(0.01, Method(*[lost] * 1_000_000)) is None


async def test_a_part_that_is_to_be_closed_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_AGAIN_SECONDS", 0.0)
    away = ActorUnavailableError("it is being restarted", b"0" * 16)
    with pytest.raises(ActorUnavailableError):
        await drain.insist(Method(*[away] * 1_000_000), back_within=0.01)
    assert await drain.insist(Method(away, "closed"), back_within=5.0) == "closed"
