"""Dead letters of a pipeline on Ray: on disk all of a node's are in one file, in memory each part has its own."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from polku.actors.drain import call, insist
from polku.actors.handles import ActorHandles
from polku.dead_letters import DeadLetter, LetterVerb
from polku.dead_letters.store import Selection
from polku.errors import PolkuError, UnavailableError
from polku.text import said

_BACK_SECONDS = 5.0  # how long a part may take for its letters


async def stored_letters(parts: ActorHandles, selection: Selection | None, *, on_disk: bool) -> list[DeadLetter]:
    """Return the latest letters, oldest first; without those of a part that is away."""
    answers = await asyncio.gather(*(_stored(h, selection) for h in (_files(parts) if on_disk else _memories(parts))))
    return sorted((letter for found in answers for letter in found), key=lambda letter: letter.time_ns)


async def change_letters(parts: ActorHandles, verb: LetterVerb, selection: Selection) -> int:
    """Replay or drop letters in the file of each node, and return how many; raises `UnavailableError`."""
    calls = [call(handle.change_dead_letters.remote(verb, selection)) for handle in _files(parts)]
    try:
        return sum(await asyncio.gather(*calls))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PolkuError):
            raise error.cause from None
        raise
    except ray.exceptions.RayActorError as error:
        text = f"a node does not answer, so that its dead letters may not have been changed: {said(error)}"
        raise UnavailableError(text) from None


async def _stored(handle: Any, selection: Selection | None) -> list[DeadLetter]:
    """Return the letters of one part, none where it is away; raises what it raises."""
    try:
        found: list[DeadLetter] = await asyncio.wait_for(insist(handle.dead_letters, selection), _BACK_SECONDS)
    except (TimeoutError, ray.exceptions.RayActorError):
        return []
    return found


def _files(parts: ActorHandles) -> list[Any]:
    return [lane.buffer for lane in parts.lanes if lane.is_first]


def _memories(parts: ActorHandles) -> list[Any]:
    lanes = [handle for lane in parts.lanes for handle in (lane.ingest, lane.buffer)]
    return list({id(handle): handle for handle in [*lanes, *parts.stages()]}.values())
