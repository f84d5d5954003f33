"""Where the copies of an event are, in every lane, and what all parts show of events."""

from __future__ import annotations

import asyncio

import ray.exceptions

from polku.actors.drain import answer_within, call
from polku.actors.handles import ActorHandles
from polku.buffer.copies import Found
from polku.errors import PolkuError
from polku.tap.request import TapReply, TapRequest

_FIND_SECONDS = 8.0
_TAP_SECONDS = 5.0


async def find(parts: ActorHandles, event_id: str) -> Found:
    """Ask the buffer of each lane; the answer is not complete where one is away."""
    lanes = parts.lanes
    answers = await asyncio.gather(*(answer_within(_FIND_SECONDS, lane.buffer.find, event_id) for lane in lanes))
    found = [(lane.name, answer) for lane, answer in zip(lanes, answers, strict=True) if isinstance(answer, Found)]
    copies = [copy._replace(part=f"{name}{copy.part}") for name, answer in found for copy in answer.copies]
    complete = len(found) == len(lanes) and all(answer.complete for _, answer in found)
    drops = {f"{name}{emitter}": one for name, answer in found for emitter, one in answer.drops.items()}
    return Found(tuple(copies), sum(answer.searched for _, answer in found), complete, drops)


async def tap(parts: ActorHandles, request: TapRequest) -> list[TapReply]:
    """Return what each actor has kept for who asks; without those that are away."""
    calls = [call(handle.tap.remote(request, lane, part)) for lane, part, handle in parts.by_lane()]
    replies = await asyncio.gather(*(asyncio.wait_for(one, _TAP_SECONDS) for one in calls), return_exceptions=True)
    for reply in replies:
        if isinstance(reply, ray.exceptions.RayTaskError) and isinstance(reply.cause, PolkuError):
            raise reply.cause from None
    return [reply for reply in replies if isinstance(reply, TapReply)]
