"""Emitters that are gone from the plan: they deliver what waits for them in each lane, and end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from polku.actors.actor_factory import ActorFactory
from polku.actors.asking import ask
from polku.actors.handles import LaneHandles
from polku.actors.lane_change import Side, end_actors, tell_buffer
from polku.aio.tasks import TaskSet
from polku.errors import ChangeError
from polku.plan import OutletPlan

_FORGET_SECONDS = 3600.0  # for one question whether all is delivered; it is asked again


class Departures:
    """Know which emitters leave which lane, and see each of them off; `on_parts` is told when one is no more."""

    def __init__(
        self, factory: ActorFactory, numbers: Callable[[], int], on_parts: Callable[[], Awaitable[None]]
    ) -> None:
        self._factory = factory
        self._numbers = numbers
        self._on_parts = on_parts
        self._leaving: dict[int, dict[str, OutletPlan]] = {}  # by the lane's number, and by name
        self._seen_off: set[tuple[int, str]] = set()  # by lane and name, those that a task waits for

    @property
    def names(self) -> frozenset[str]:
        """The names of emitters that leave a lane."""
        return frozenset(name for lane in self._leaving.values() for name in lane)

    def side(self, lane: LaneHandles) -> Side:
        """Return what a lane is made of now, with the emitters that leave it."""
        leaving = self._leaving.get(lane.number, {})
        return Side(self._factory.layout, lane, tuple(leaving.values()), frozenset(leaving))

    async def leave(self, outlets: Sequence[OutletPlan], tasks: TaskSet) -> None:
        """Have emitters get nothing more, in every lane, and end them once they have delivered what they have.

        What cannot be told to a buffer now is told later.
        """
        for lane, _ in self._factory.lanes:
            leaving = self._leaving.setdefault(lane.number, {})
            leaving |= {outlet.name: replace(outlet, formerly=None) for outlet in outlets}
        for lane, _ in self._factory.lanes:
            if outlets:
                try:
                    await self._tell(lane.number)
                except ChangeError as error:
                    tasks.note("emitters that leave", error)
                self.see_off(lane.number, tasks)

    def took_back(self, lane: int, side: Side) -> None:
        """Take note of emitters that leave a lane again that was taken back."""
        self._leaving[lane] = {outlet.name: outlet for outlet in side.extra}

    def see_off(self, lane: int, tasks: TaskSet) -> None:
        """End the emitters that leave a lane, each in its time."""
        for name in self._leaving.get(lane, {}):
            if (lane, name) not in self._seen_off:
                self._seen_off.add((lane, name))
                tasks.keep_alive(f"emitter {name!r} leaves", partial(self._see_off, lane, name))

    async def _see_off(self, number: int, name: str) -> None:
        """Return when an emitter of a lane has delivered what it has, and is no more."""
        async with self._factory.changing:
            if not await self._tell(number):
                return
            lane = self._lane(number)
        if lane is None or name not in self._leaving.get(number, {}):
            return
        await ask(f"{lane.name}buffer", lane.buffer.forget, name, seconds=_FORGET_SECONDS)
        async with self._factory.changing:
            lane = self._lane(number)
            self._seen_off.discard((number, name))
            if lane is None or self._leaving[number].pop(name, None) is None:
                return
            emitters = {other: handle for other, handle in lane.emitters.items() if other != name}
            place = next(place for one, place in self._factory.lanes if one.number == number)
            self._factory.exchange(lane._replace(emitters=emitters), place)
            await self._tell(number)
            await self._on_parts()
        await end_actors({f"{lane.name}emitter:{name}": lane.emitters[name]})

    async def _tell(self, number: int) -> bool:
        """Tell the buffer of a lane which emitters leave; return whether the lane is there."""
        for lane, place in self._factory.lanes:
            if lane.number == number:
                await asyncio.shield(tell_buffer(self.side(lane), place, self._numbers(), {}, 30.0))
                return True
        return False

    def _lane(self, number: int) -> LaneHandles | None:
        return next((lane for lane, _ in self._factory.lanes if lane.number == number), None)
