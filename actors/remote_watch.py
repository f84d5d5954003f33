"""Processes of other nodes that have ended: known at once, though a descriptor of a process is of its own node.

On every other node the first part there looks after the processes of the others, and the second one after that of the
first: an open call of theirs is answered when one has ended. A part that is alone on its node has an open call too,
which ends with its process, one to two seconds later by Ray's own means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ray.exceptions

from polku.actors.observation import Observation, out_of_reach
from polku.actors.shell import Vitals
from polku.aio.tasks import TaskSet


class _Duty(NamedTuple):
    """What a part has an open call for: its own process, and others of its node, by their numbers."""

    pid: int
    others: Mapping[int, str]


class RemoteWatch:
    """Call `on_end` with the name of a part and the number of its process, once that has ended.

    Where all that is known is that a part's own call has ended, `on_end` gets a sentence about that, too.
    """

    def __init__(self, on_end: Callable[..., None]) -> None:
        self._on_end = on_end
        self._duties: dict[str, _Duty] = {}
        self._tasks = TaskSet("processes of other nodes")

    def watch(self, handles: Mapping[str, Any], seen: Mapping[str, Observation], here: str) -> None:
        """Watch these parts alone, of those on other nodes that answer; calls that have nothing new stay open."""
        answering = [(name, seen[name].vitals) for name in handles if name in seen and not seen[name].complaint]
        elsewhere = {name: vitals for name, vitals in answering if vitals is not None and vitals.node != here}
        wanted = dict(_duties(elsewhere))
        for name in [name for name, duty in self._duties.items() if wanted.get(name) != duty]:
            del self._duties[name]
            self._tasks.cancel(name)
        for name, duty in wanted.items():
            if name not in self._duties:
                self._duties[name] = duty
                self._tasks.start(name, self._ask(name, handles[name], duty))

    async def close(self) -> None:
        """End it."""
        self._duties.clear()
        await self._tasks.close()

    async def _ask(self, name: str, handle: Any, duty: _Duty) -> None:
        waiting = dict(duty.others)
        try:
            while True:
                for pid in await handle.first_to_end.remote(tuple(waiting)):
                    if (other := waiting.pop(pid, None)) is not None:
                        self._on_end(other, pid)
        except ray.exceptions.RayActorError as error:
            self._on_end(name, duty.pid, out_of_reach(error))
        except ray.exceptions.RayError:
            pass
        finally:
            if self._duties.get(name) is duty:  # a later look asks again
                del self._duties[name]


def _duties(parts: Mapping[str, Vitals]) -> Iterator[tuple[str, _Duty]]:
    """Yield which part looks after which processes, in the order of the parts: those in front run least user code."""
    nodes: dict[str, list[str]] = {}
    for name, part in parts.items():
        nodes.setdefault(part.node, []).append(name)
    for names in nodes.values():
        first, *rest = names
        for name in names:
            looked_after = rest if name == first else [first] if name == rest[0] else []
            yield name, _Duty(parts[name].pid, {parts[other].pid: other for other in looked_after})
