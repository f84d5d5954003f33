"""What every actor of a pipeline has in common: it starts itself again after Ray has restarted its process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import resource
import secrets
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ray import cloudpickle

from polku.actors import socket_channel
from polku.actors.kept import kept
from polku.actors.process_watch import first_to_end
from polku.actors.surroundings import Surroundings
from polku.runtime.memory import keep_until_quiet, private_memory
from polku.runtime.serving import tune_process
from polku.tap.point import Tapped
from polku.tap.redaction import Redaction
from polku.tap.request import TapReply, TapRequest
from polku.tap.taps import Taps
from polku.text import named
from polku.usercode import contained

_LOG = logging.getLogger(__name__)
_OPEN_SECONDS = 30.0  # for which a call stays open that waits for the end of a process
_S = TypeVar("_S", bound="Shell")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def started(
    method: Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate[_S, _P], Coroutine[Any, Any, _R]]:
    """Let a method of an actor be called at any time: what is not open yet in this life of the process is opened."""

    @functools.wraps(method)
    async def opened_first(self: _S, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        if not self._started:
            await self.ensure_started()
        return await method(self, *arguments, **options)

    return opened_first


class Vitals(NamedTuple):
    """Tell how an actor's process is.

    `cpu_seconds` since its start, `memory_bytes` private, `epoch` of this life, `open_seconds` that it took to open,
    `node` where it runs.
    """

    pid: int
    epoch: int
    cpu_seconds: float
    memory_bytes: int
    open_seconds: float = 0.0
    node: str = ""


class Shell:
    """The base of the actors, made with what `pack` returned.

    The constructor does nothing that can fail, not even unpickle user code: Ray never restarts an actor after that.
    `open` may raise at any time; what it had opened by then is closed, and the next call tries again.
    """

    def __init__(self, packed: bytes, surroundings: Surroundings) -> None:
        self._packed = packed
        self._number = 0  # of the latest change that this part took over
        self._surroundings = surroundings
        self._epoch = secrets.randbits(62) + 1  # compared with that of other lives only: clocks may go back
        self._started = False
        self._opened = contextlib.AsyncExitStack()  # closes what `open` has opened, the latest first
        self._open_seconds = 0.0
        self._starting: asyncio.Lock | None = None
        self._taps: Taps | None = None
        self.redaction = Redaction()

    async def ensure_started(self) -> None:
        """Open what has to be open, once in each life of the process."""
        if self._started:
            return
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self._started:
                self._surroundings.settle()
                began = time.monotonic()
                if (name := own_name()) and (latest := await asyncio.to_thread(kept, name)) is not None:
                    self._number, self._packed = latest
                try:
                    await contained(self.open())
                except BaseException:
                    await self._close_opened()
                    raise
                self._open_seconds = time.monotonic() - began
                tune_process()
                keep_until_quiet()
                self._started = True

    async def open(self) -> None:
        """Build the running object and open its files, sockets and clients."""
        raise NotImplementedError

    async def begin(self) -> None:
        """Start, and raise what keeps this part from its work: at the start of a pipeline that ends it."""
        await self.ensure_started()
        self.check()

    def check(self) -> None:
        """Raise what a part of this actor that is still being started again failed with."""

    async def close(self) -> None:
        """Close what is open, also where something raises in the middle of it."""
        await self._close_opened()

    def take_over(self, number: int, packed: bytes) -> None:
        """Take note that this part is made of other arguments now, as the change of this number says."""
        self._number, self._packed = number, packed
        self._taps = None  # those of the parts of before end

    async def _close_opened(self) -> None:
        try:
            await self._opened.aclose()
        except Exception as error:
            _LOG.warning("something could not be closed: %s", named(error))
        if tracer := sys.modules.get("polku.tracing.tracer"):  # only where this part is traced
            await tracer.flush()

    @started
    async def listen(self, node: str) -> str:
        """Open a shortcut for the one actor that asks, and return the path of its socket; empty on another node."""
        return await socket_channel.listen(self._serve) if node == socket_channel.this_node() else ""

    async def _serve(self, method: str, arguments: tuple[Any, ...], payload: bytes) -> bytes:
        """Do what came in by a shortcut."""
        actor: Any = self
        if method == "push":
            head, *after = arguments
            answer: bytes = await actor.push(head, payload, *after)
            return answer
        return pickle.dumps(await actor.outcome(*arguments))

    def tapped(self, part: str) -> dict[str, Tapped]:
        """Return what shows its events in this actor, by name; the actor itself is this part."""
        return {}

    @started
    async def tap(self, request: TapRequest, lane: str, part: str) -> TapReply:
        """Return what was kept for who asks; `lane` begins the names of the parts."""
        if self._taps is None:
            shown = {f"{lane}{name}": tapped for name, tapped in self.tapped(part).items()}
            self._taps = Taps(shown, self.redaction)
        return self._taps.read(request)

    async def own_name(self) -> str:
        """Return the name of this actor."""
        return own_name()

    async def first_to_end(self, pids: tuple[int, ...]) -> tuple[int, ...]:
        """Return which of these processes of this node have ended, as soon as one has; none after half a minute."""
        return await first_to_end(pids, _OPEN_SECONDS)

    async def life(self) -> int:
        """Return a number that only this life of the actor has."""
        return self._epoch

    @started
    async def vitals(self) -> Vitals:
        """Return how the process is; starts the actor if it has been restarted."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu_seconds, node = usage.ru_utime + usage.ru_stime, socket_channel.this_node()
        return Vitals(os.getpid(), self._epoch, cpu_seconds, private_memory(), self._open_seconds, node)


def own_name() -> str:
    """Return the name of the actor whose process this is; empty in any other process."""
    import ray

    return (ray.get_runtime_context().get_actor_name() or "") if ray.is_initialized() else ""


def pack(*arguments: object) -> bytes:
    """Pickle a constructor's arguments.

    Ray puts arguments that hold handles into its object store, and cannot restart an actor whose arguments are gone
    from there; bytes travel inside the call and stay with the actor.
    """
    packed: bytes = cloudpickle.dumps(arguments)
    return packed


def unpack(packed: bytes) -> Any:
    """Return the arguments again."""
    return cloudpickle.loads(packed)
