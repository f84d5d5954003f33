"""What emitters in actors print, written to the standard output of the program that has started the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray.exceptions

from polku.actors.attachment import Attachment
from polku.actors.handles import LaneHandles
from polku.aio.tasks import TaskSet
from polku.emit.console import UNWRITABLE, DirectConsole
from polku.errors import MisconfiguredError
from polku.plan import Plan


class ConsoleOutput:
    """Write what the emitters of lanes print, each emitter's once."""

    def __init__(self, tasks: TaskSet) -> None:
        self._tasks = tasks
        self._followed: set[Any] = set()

    def follow(self, plan: Plan, lanes: Sequence[LaneHandles], attachment: Attachment | None) -> None:
        """Write what the emitters of these lanes print to this program's standard output, from now on."""
        if attachment is None:
            return
        names = [o.name for o in plan.outlets if getattr(o.emitter, "writes_to_console", False)]
        handles = {id(handle): handle for lane in lanes for name in names for handle in [lane.emitters[name]]}
        for handle in [handle for handle in handles.values() if handle._actor_id not in self._followed]:
            self._followed.add(handle._actor_id)
            self._tasks.keep_alive("writing to the console", partial(write_console, handle, attachment))


async def write_console(emitter: Any, attachment: Attachment) -> None:
    """Write what an emitter prints to this program's standard output, and confirm it."""
    written, fault = 0, ""
    console = DirectConsole()  # its threads do not keep the program from ending
    while attachment.is_there:
        try:
            written, text = await emitter.next_output.remote(written, fault)
        except ray.exceptions.ActorDiedError:  # another has taken its place, or it is gone
            return
        except ray.exceptions.RayError:
            await asyncio.sleep(0.5)
            written, fault = 0, ""
            continue
        try:
            await console.write(text)
            fault = ""
        except MisconfiguredError as error:
            fault = str(error).removeprefix(UNWRITABLE)
