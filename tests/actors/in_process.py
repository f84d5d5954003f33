"""Actors in the event loop of a test: they are called, killed and started again as Ray's are, within microseconds.

What an actor is given and returns is pickled, its calls overlap, and nothing of it lives on when it is killed: its
tasks are cancelled, and what it still calls is not heard.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import weakref
from collections.abc import Callable, Generator
from typing import Any

import pytest
import ray.exceptions
from ray import cloudpickle

from polku.actors import actor_factory, kept, object_ref_queue, shell, socket_channel
from polku.actors.buffer import BufferShell
from polku.actors.emitter import EmitterShell
from polku.actors.ingest import IngestShell
from polku.actors.lane import LaneShell
from polku.actors.names import same
from polku.actors.stage import StageShell
from polku.actors.surroundings import Surroundings
from polku.errors import UnavailableError
from polku.link.link import Link

_LIFE: contextvars.ContextVar[_Life | None] = contextvars.ContextVar("life", default=None)
_KNOWN: dict[str, Actor] = {}
_ALL: dict[str, Actor] = {}  # also those that are gone
OPTIONS: dict[str, dict[str, object]] = {}  # what actors are created with, by their names
PENDING: set[str] = set()  # actors that find no room: parts of their names
_LIVES: weakref.WeakKeyDictionary[asyncio.Task[Any], _Life] = weakref.WeakKeyDictionary()


class _Life:
    """One life of an actor."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.shell: Any = actor.make()
        self.is_over = False
        self.calls: set[asyncio.Future[Any]] = set()
        self.links: list[Link] = []


class Ref:
    """What a call returns: it can be awaited."""

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self._answer).__await__()

    def future(self) -> concurrent.futures.Future[Any]:
        """Return the same for `asyncio.wrap_future`."""
        found: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def tell(answer: asyncio.Future[Any]) -> None:
            if found.cancelled() or answer.cancelled():
                return
            if (error := answer.exception()) is not None:
                found.set_exception(error)
            else:
                found.set_result(answer.result())

        self._answer.add_done_callback(tell)
        return found


class Actor:
    """The handle of an actor, and the actor itself; it is pickled by its name."""

    def __init__(self, kind: Callable[..., Any], name: str, packed: bytes) -> None:
        self.name = self._actor_id = name
        self._kind, self._packed = kind, packed
        self.is_gone = False
        self.deaths = 0
        self.closing: asyncio.Future[None] | None = None
        self.current = _Life(self)
        _KNOWN[name] = _ALL[name] = self

    def make(self) -> Any:
        """Return the object that is called, as it is at the start of a life."""
        return self._kind(self._packed, Surroundings())

    def __reduce__(self) -> tuple[object, ...]:
        return _handle, (self.name,)

    def __getattr__(self, method: str) -> _Method:
        if method.startswith("__"):
            raise AttributeError(method)
        return _Method(self, method)

    def kill(self, *, restart: bool) -> None:
        """End its life; one that is to start again does so at the next call."""
        life, self.current = self.current, _Life(self)
        self.deaths += 1
        life.is_over = True
        for link in life.links:
            # Or it would take the end of its tasks for that of user code, and try again.
            link._transmission.is_closed = True
        for task in asyncio.all_tasks():
            if _LIVES.get(task) is life and task is not asyncio.current_task():
                task.cancel()
        for call in life.calls:
            if not call.done():
                call.set_exception(ray.exceptions.ActorUnavailableError("it died", bytes(16)))
        self.closing = asyncio.ensure_future(_unlock(life.shell))
        self.is_gone = not restart
        if self.is_gone:
            _KNOWN.pop(self.name, None)


async def _unlock(shell: Any) -> None:
    """Give back the lock of a journal and its files, which the end of a process does by itself."""
    if hasattr(shell, "_dead_letters"):
        await shell._dead_letters.close()
    buffer = getattr(getattr(shell, "_lane", shell), "_buffer", None)
    if buffer is not None:
        with contextlib.suppress(RuntimeError):  # its threads have ended: it was closed before
            await buffer._log.close()


def _handle(name: str) -> Actor:
    return _ALL[name]


class _Method:
    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any, **options: Any) -> Ref:
        """Call it."""
        caller, life = _LIFE.get(), self._actor.current
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self._actor.is_gone or (caller is not None and caller.is_over):
            answer.set_exception(ray.exceptions.ActorDiedError())
            return Ref(answer)
        life.calls.add(answer)
        answer.add_done_callback(life.calls.discard)
        packed = cloudpickle.dumps((arguments, options))
        context = contextvars.copy_context()
        context.run(_LIFE.set, life)
        asyncio.get_running_loop().create_task(_call(life, self._name, packed, answer), context=context)
        return Ref(answer)


async def _call(life: _Life, method: str, packed: bytes, answer: asyncio.Future[Any]) -> None:
    arguments, options = cloudpickle.loads(packed)
    while any(name in life.actor.name for name in PENDING):  # noqa: ASYNC110 - a test says when there is room
        await asyncio.sleep(0.001)
    if life.actor.closing is not None:
        await asyncio.wait([life.actor.closing])
    try:
        result = cloudpickle.loads(cloudpickle.dumps(await getattr(life.shell, method)(*arguments, **options)))
    except Exception as error:
        if not answer.done():
            answer.set_exception(ray.exceptions.RayTaskError(method, str(error), error).as_instanceof_cause())
    else:
        if not answer.done():
            answer.set_result(result)


class _Kind:
    """An actor class, as `ray.remote` makes it."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        self._kind = kind

    def options(self, *, name: str, **options: object) -> _Named:
        """Name an actor."""
        OPTIONS[name] = options
        return _Named(self._kind, name)


class _Named:
    def __init__(self, kind: Callable[..., Any], name: str) -> None:
        self._kind, self._name = kind, name

    def remote(self, packed: bytes, surroundings: object) -> Actor:
        """Create it."""
        return Actor(self._kind, self._name, packed)


class _Store:
    """Ray's own store of keys and values."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def _internal_kv_put(self, key: str, value: bytes, **_: object) -> None:
        self.values[key] = value

    def _internal_kv_get(self, key: str, **_: object) -> bytes | None:
        return self.values.get(key)

    def _internal_kv_del(self, key: str, *, del_by_prefix: bool = False, **_: object) -> None:
        for name in [name for name in self.values if name == key or (del_by_prefix and name.startswith(key))]:
            del self.values[name]


def living() -> list[Actor]:
    """Return the actors that there are."""
    return list(_KNOWN.values())


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, context: Any = None) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, context=context)
    life = _LIFE.get() if context is None else context.get(_LIFE)
    if life is not None:
        _LIVES[task] = life
    return task


def use(monkeypatch: pytest.MonkeyPatch) -> _Store:
    """Have the parts of pipelines be such actors, in the running event loop; return what they are made of by name."""
    asyncio.get_running_loop().set_task_factory(_make_task)
    _KNOWN.clear()
    _ALL.clear()
    OPTIONS.clear()
    store = _Store()

    def find(name: str) -> Actor:
        if name not in _KNOWN:
            raise UnavailableError(f"actor {name} cannot be found")
        return _KNOWN[name]

    def own_name() -> str:
        life = _LIFE.get()
        return life.actor.name if life is not None else ""

    def kill(actor: Actor, *, no_restart: bool = True) -> None:
        actor.kill(restart=not no_restart)

    monkeypatch.setattr(ray, "kill", kill)
    make_link = Link.__init__

    def make_own_link(link: Link, *arguments: Any, **options: Any) -> None:
        make_link(link, *arguments, **options)
        if (life := _LIFE.get()) is not None:
            life.links.append(link)

    monkeypatch.setattr(Link, "__init__", make_own_link)
    monkeypatch.setattr(kept, "internal_kv", store)
    monkeypatch.setattr(shell, "own_name", own_name)
    monkeypatch.setattr(shell, "tune_process", lambda: None)
    monkeypatch.setattr(shell, "keep_until_quiet", lambda: None)
    monkeypatch.setattr(Surroundings, "settle", lambda self: None)
    monkeypatch.setattr(socket_channel, "this_node", lambda: "here")
    monkeypatch.setattr(object_ref_queue, "this_node", lambda: "there")
    monkeypatch.setattr(object_ref_queue, "find", find)
    kinds = {"Buffer": BufferShell, "Emitter": EmitterShell, "Ingest": IngestShell, "Lane": LaneShell}
    for name, kind in {**kinds, "Stage": StageShell}.items():
        monkeypatch.setattr(actor_factory, f"{name}Actor", _Kind(kind))
    monkeypatch.setattr(actor_factory, "surroundings", lambda *arguments: None)
    monkeypatch.setattr(actor_factory, "NodeAffinitySchedulingStrategy", lambda *arguments, **options: None)
    return store


__all__ = ["Actor", "living", "same", "use"]
