"""The beginning of a pipeline's actors, and of those of a lane that comes later."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import ray.exceptions

from polku.actors.handles import LaneHandles
from polku.actors.nodes import LanePlace
from polku.gateway.addresses import Addresses, Doors
from polku.text import named

_LOG = logging.getLogger(__name__)

START_SECONDS = 30.0
"""How long an actor may be away while it is being started."""


async def start(method: Any, *arguments: object) -> Any:
    """Call a method of an actor that is being started; one that dies meanwhile is started again by Ray."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return await method.remote(*arguments)
        except ray.exceptions.ActorUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def start_all(handles: Iterable[Any]) -> None:
    """Start parts that nobody outside talks to."""
    await asyncio.gather(*(start(handle.begin) for handle in handles))


async def introduce_all(lanes: Iterable[LaneHandles], supervisor: Any, doors: Doors) -> None:
    """Tell lanes that have their doors open who supervises them.

    They have taken events in by then: one that is lost with its node meanwhile does not end the others. The supervisor
    tells it when it is back.
    """
    await asyncio.gather(*(_introduce(lane, supervisor, doors) for lane in lanes))


async def _introduce(lane: LaneHandles, supervisor: Any, doors: Doors) -> None:
    try:
        await start(lane.ingest.introduce, supervisor, doors, lane.scope)
    except ray.exceptions.RayActorError as error:
        _LOG.error("%s on node %s was lost while the pipeline started: %s", lane.door, lane.address, named(error))


async def open_doors(lane: LaneHandles, place: LanePlace, doors: Doors) -> tuple[Addresses, Doors]:
    """Open a lane's doors; return where they are, and the doors of the other lanes: the ports that the first one found.

    Raises `SettingError` where a port that the lanes of a host share is somebody else's.
    """
    await start(lane.ingest.begin)
    if doors.shared and place.checks_ports:
        await start(lane.ingest.claim, doors)
    opened: Addresses = await start(lane.ingest.introduce, None, doors)
    return opened, replace(
        doors,
        grpc_addr=opened.grpc,
        http_addr=opened.http,
        otlp_addr=opened.otlp,
        otlp_http_addr=opened.otlp_http,
    )
