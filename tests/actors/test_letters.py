"""Dead letters of a pipeline on Ray, asked of all parts at the same time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from polku.actors import drain, letters
from polku.actors.handles import ActorHandles
from polku.dead_letters import DeadLetter
from polku.event.v1.event_pb2 import Event


def letter(event_id: str, time_ns: int) -> DeadLetter:
    return DeadLetter(Event(id=event_id), "out", "POISON", "it kills", "", time_ns)


def parts(*answers: object) -> Any:
    """Return parts of which each one's file answers so."""

    def remote(answer: Any) -> Any:
        def ask(event_id: str | None) -> asyncio.Future[Any]:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            given = answer.pop(0) if len(answer) > 1 else answer[0]
            future.set_exception(given) if isinstance(given, Exception) else future.set_result(given)
            return future

        return SimpleNamespace(dead_letters=SimpleNamespace(remote=ask))

    lanes = [SimpleNamespace(is_first=True, buffer=remote(answer)) for answer in answers]
    return SimpleNamespace(lanes=lanes)


def away() -> ActorUnavailableError:
    return ActorUnavailableError("a message was lost", bytes(16))


async def found(made: ActorHandles) -> list[str]:
    return [one.event.id for one in await letters.stored_letters(made, None, on_disk=True)]


async def test_letters_of_all_parts_stand_in_their_order_and_those_that_are_away_have_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain, "_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(letters, "_BACK_SECONDS", 0.2)
    made = parts([[letter("b", 2)]], [away(), [letter("a", 1)]], [ActorDiedError()], [away()])
    assert await found(made) == ["a", "b"]


async def test_a_file_that_cannot_be_read_is_an_error_and_no_empty_list() -> None:
    error = RayTaskError("dead_letters", "the file is no database", ValueError("the file is no database"))
    with pytest.raises(ray.exceptions.RayTaskError):
        await found(parts([[letter("a", 1)]], [error]))
