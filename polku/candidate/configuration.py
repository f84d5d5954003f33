"""Middleware in use, and new middleware next to it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from polku import checks
from polku.clock import Clock
from polku.contracts import Step
from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware.partition_key import partition_key, partition_keys
from polku.middleware.shares import Key, key_function, share_by_key

_WHERE = "middleware"


class Mode(StrEnum):
    """Say what new middleware does next to the one in use."""

    SHADOW = "shadow"
    """It works on copies of a share of the events; what it makes of them is compared, and thrown away."""
    CANARY = "canary"
    """It works on a share of the events, in place of the one in use."""


@dataclass(frozen=True, slots=True, repr=False)
class WithCandidate:
    """The middleware in use (`current`), and new middleware, its `candidate`, which is called `name`.

    The share (0 to 1) is chosen by `key`, so that events of one key are all in it, or none is.
    """

    current: object
    candidate: object
    name: str
    mode: Mode
    share: float
    key: str | Key = "id"

    def __post_init__(self) -> None:
        checks.fraction(_WHERE, str(self.mode), self.share)
        key_function(_WHERE, self.key)
        for component in self.middleware_parts:
            if getattr(component, "holds", False) and not getattr(component, "overlaps", False):
                raise PlanError(
                    f"{checks.shorten(component)} holds events back and makes new ones of many, so that there is no "
                    f"telling which event {self.mode}= is about",
                    where=_WHERE,
                )
        if self.mode is Mode.CANARY:
            self._check_canary()

    def _check_canary(self) -> None:
        for component in self.middleware_parts:
            if state_key := getattr(component, "state_key", None):
                raise PlanError(
                    f"{checks.shorten(component)} remembers events by {state_key}, and would see a part of them; use "
                    "shadow= instead of canary=",
                    where=_WHERE,
                )
        if len({bool(getattr(component, "overlaps", False)) for component in self.middleware_parts}) == 2:
            raise PlanError("canary= needs batching= for both, or for none of them", where=_WHERE)

    def __repr__(self) -> str:
        return f"{_show(self.current)} with {self.candidate_label}"

    @property
    def candidate_label(self) -> str:
        """What is next to the one in use, for people: `shadow Transform(new) of 5 % by id`."""
        return f"{self.mode} {self.name} of {100 * self.share:.3g} % by {key_name(self.key)}"

    @property
    def middleware_parts(self) -> tuple[object, object]:
        """Both, the one in use first."""
        return self.current, self.candidate

    @property
    def state_key(self) -> str | None:
        """By what the one in use keeps state: that of a shadow is its own, and is not moved."""
        return getattr(self.current, "state_key", None)

    @property
    def state_form(self) -> str | None:
        """What the state of the one in use looks like."""
        return getattr(self.current, "state_form", None)

    @property
    def partition_key(self) -> object:
        """By which key the one in use is divided into partitions; None where it does not say."""
        return partition_key(self.current)

    @property
    def partition_keys(self) -> object:
        """The same for a list of events."""
        return partition_keys(self.current)

    @property
    def split_state(self) -> object:
        """What divides the state of the one in use; None where it cannot be divided."""
        return getattr(self.current, "split_state", None)

    @property
    def merge_states(self) -> object:
        """What makes one state of several of the one in use; None where that cannot be done."""
        return getattr(self.current, "merge_states", None)

    @property
    def holds(self) -> bool:
        """Whether the one in use answers late, as a model does."""
        return bool(getattr(self.current, "holds", False))

    @property
    def overlaps(self) -> bool:
        """Whether the one in use works on several batches at once."""
        return bool(getattr(self.current, "overlaps", False))

    @property
    def targets(self) -> Sequence[str]:
        """The emitters that one of the two routes to."""
        return tuple(target for part in self.middleware_parts for target in getattr(part, "targets", ()))

    @property
    def beside(self) -> Callable[[str, str], WithCandidate] | None:
        """What places the files that one of the two keeps next to a journal; None where neither has any."""
        return self._placed if any(callable(getattr(part, "beside", None)) for part in self.middleware_parts) else None

    def with_middleware_parts(self, change: Callable[[Any], Any]) -> WithCandidate:
        """Return it with both of them changed."""
        return replace(self, current=change(self.current), candidate=change(self.candidate))

    def _placed(self, journal: str, name: str) -> WithCandidate:
        def place(component: Any, name: str) -> Any:
            beside = getattr(component, "beside", None)
            return beside(journal, name) if callable(beside) else component

        return replace(self, current=place(self.current, name), candidate=place(self.candidate, f"{name}-{self.mode}"))

    def choice(self) -> Callable[[Event], bool]:
        """Return what chooses the share: alike in every process; an event on which the key raises is not in it."""
        choose = share_by_key(self.share, zlib.crc32(b"candidate"), key_function(_WHERE, self.key))

        def chosen(event: Event) -> bool:
            try:
                return choose(event)
            except Exception:
                return False

        return chosen

    def build(self, clock: Clock) -> Step:
        """Make what runs; a shadow builds its own part later, in its thread."""
        from polku.candidate.canary import Canary, OverlappingCanary
        from polku.candidate.shadow import OverlappingShadow, Shadow
        from polku.candidate.thread import ShadowThread
        from polku.middleware.adapt import as_step

        current: Any = as_step(self.current, clock)
        if self.mode is Mode.SHADOW:
            shadow = OverlappingShadow if hasattr(current, "submit") else Shadow
            return shadow(self, current, ShadowThread(self.name, self.candidate, clock))
        candidate: Any = as_step(self.candidate, clock)
        candidate.name = self.name
        canary = OverlappingCanary if hasattr(current, "submit") else Canary
        return canary(self, current, candidate)


def key_name(key: str | Key) -> str:
    """Return what a key is called."""
    return key if isinstance(key, str) else checks.label(key)


def _show(component: object) -> str:
    return checks.label(component) if hasattr(component, "__name__") else repr(component)
