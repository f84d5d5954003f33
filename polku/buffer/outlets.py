"""The outlets of a buffer: which there are, which leave, and what is chosen for them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from polku.buffer.outlet import Outlet
from polku.buffer.quota import Quota
from polku.buffer.strategy import BufferStrategy, Overflow
from polku.link.link import Link


class OutletRules(Struct, frozen=True):
    """What is chosen for outlets, by name: rules for what does not fit, who is not waited for, who gets everything."""

    overflow: Mapping[str, Overflow]
    best_effort: frozenset[str]
    always: frozenset[str]


class OutletChange(Struct, frozen=True):
    """Which outlets are new, each with its link, which have another name (old by new), and which leave."""

    links: Mapping[str, Link]
    renamed: Mapping[str, str]
    leaving: Sequence[str]


class Make(Protocol):
    """Make the outlet of an emitter, to which `link` leads; senders wait for its deliveries or not."""

    def __call__(self, name: str, link: Link, quota: Quota, *, is_waited_for: bool) -> Outlet:
        """Return the outlet, which does not deliver yet."""
        ...


class Outlets:
    """The outlets of one buffer by the names of their emitters; `make` makes one.

    Those that are `leaving` deliver what they have, and get nothing more: `all` are those that get batches, `every` has
    these too, `always` are those that get every batch, whatever its routes. Senders hear nothing of `best_effort`.
    """

    def __init__(self, strategy: BufferStrategy, rules: OutletRules, make: Make) -> None:
        self.strategy = strategy
        self.rules = rules
        self.best_effort = rules.best_effort
        self._make = make
        self.leaving: dict[str, Outlet] = {}
        self.by_name: dict[str, Outlet] = {}
        self._know()

    def __getitem__(self, name: str) -> Outlet:
        return self.by_name[name] if name in self.by_name else self.leaving[name]

    @property
    def names(self) -> list[str]:
        """The names of all, with those that leave."""
        return [*self.by_name, *self.leaving]

    def quota(self, name: str) -> Quota:
        """Return what an outlet may hold."""
        rule = self.rules.overflow.get(name, self.strategy.overflow)
        return Quota(self.strategy.capacity, self.strategy.max_bytes, rule)

    def choose(self, strategy: BufferStrategy, rules: OutletRules, leaving: Sequence[str]) -> None:
        """Take other rules; those that leave, or are to leave, keep being waited for or not."""
        gone = self.best_effort & {*self.leaving, *leaving}
        self.strategy = strategy
        self.rules = replace(rules, best_effort=rules.best_effort | gone)
        self.best_effort = self.rules.best_effort

    def rename(self, old: str, new: str) -> None:
        """Have an outlet under another name."""
        outlet = self.by_name.pop(old)
        outlet.rename(new)
        self.by_name[new] = outlet

    def leave(self, names: Sequence[str]) -> None:
        """Hand nothing more to these outlets; the others have the quotas of the rules from now on."""
        for name in names:
            self.leaving[name] = self.by_name.pop(name)
        for name, outlet in self.by_name.items():
            outlet.usage.allow(self.quota(name))
        self._know()

    def add(self, links: Mapping[str, Link]) -> None:
        """Have an outlet for each of these links."""
        for name, link in links.items():
            self.by_name[name] = self._make(name, link, self.quota(name), is_waited_for=name not in self.best_effort)
        self._know()

    def forget(self, name: str) -> None:
        """Have an outlet no more that leaves."""
        del self.leaving[name]
        self._know()

    def holds_up(self, outlet: Outlet) -> bool:
        """Return whether senders hear of it when an outlet has no room: they wait, or are refused."""
        return outlet.usage.quota.overflow is Overflow.BLOCK or outlet.name not in self.best_effort

    def _know(self) -> None:
        self.all = tuple(self.by_name.values())
        self.every = (*self.all, *self.leaving.values())
        self.always = tuple(outlet for outlet in self.all if outlet.name in self.rules.always)
