"""Give lanes that were added their share of the connections that there are.

Clients stay connected to the lane that they found, and the kernel gives a lane only connections that are made. So lanes
that have more connections than others ask some of theirs to connect again, which brings each to any lane. That is done
in rounds, because some come back to where they were: half of the connections of a lane at most are asked in each.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from polku.actors.drain import answer_within
from polku.actors.handles import LaneHandles

_LOG = logging.getLogger(__name__)
_ROUNDS = 6
_SPREAD_SECONDS = 2.0  # over which the connections of a round are asked
_CONNECT_SECONDS = 4.0  # until those of a round have ended and connected again
_LOOK_SECONDS = 2.0
_MOST_ASKED = 0.5  # of the connections of a lane, in one round
_EVEN = 0.1  # beyond the mean, or one connection: chance alone makes more than that

Counts = Mapping[str, int]
"""Connections of a lane, by the names of the settings of addresses."""


def to_ask(lanes: Mapping[int, Counts], fresh: frozenset[int]) -> dict[int, dict[str, int]]:
    """Return how many connections each lane is to ask to connect again, by address; empty where they are spread.

    What connects again meets one of the `fresh` lanes with the share that these are of all.
    """
    asked: dict[int, dict[str, int]] = {}
    hit = len(fresh & lanes.keys()) / len(lanes) if lanes else 0.0
    for name in {name for counts in lanes.values() for name in counts} if hit else ():
        mean = sum(counts.get(name, 0) for counts in lanes.values()) / len(lanes)
        for lane, counts in lanes.items():
            own = counts.get(name, 0)
            over = own - mean
            if over > max(1.0, _EVEN * mean):
                most = math.ceil(own * _MOST_ASKED)
                asked.setdefault(lane, {})[name] = min(most, math.ceil(over / hit))
    return asked


async def level(lanes: Callable[[], Sequence[LaneHandles]], fresh: frozenset[int]) -> None:
    """Spread the connections of lanes, of which those of the numbers `fresh` were added."""
    for _ in range(_ROUNDS):
        there = {lane.number: lane for lane in lanes()}
        found = await asyncio.gather(*(_staying(lane) for lane in there.values()))
        counts = {number: each for number, each in zip(there, found, strict=True) if each is not None}
        asked = to_ask(counts, fresh)
        if not asked:
            break
        await asyncio.gather(*(_shed(there[number], each) for number, each in asked.items()))
        await asyncio.sleep(_SPREAD_SECONDS + _CONNECT_SECONDS)


async def _staying(lane: LaneHandles) -> Counts | None:
    counts: Counts | None = await answer_within(_LOOK_SECONDS, lane.ingest.staying)
    return counts


async def _shed(lane: LaneHandles, counts: Counts) -> None:
    for name, count in counts.items():
        _LOG.info("%s asks %d connections of %s to connect again: lanes were added", lane.door, count, name)
    await answer_within(_LOOK_SECONDS, lane.ingest.shed, counts, _SPREAD_SECONDS)
