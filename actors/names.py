"""The names of a pipeline's actors: by them one finds another, also in a lane that came later than itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ray

from polku.errors import UnavailableError

NAMESPACE = "polku"
_ANY_LANE = "/*/"


class Names(NamedTuple):
    """Make names; `run` is what only this run of the pipeline has, without a slash.

    A part whose actor was replaced while the pipeline ran has the number of that change in its name (`versions`); the
    replicas of a stage have it together, and one that came later its own.
    """

    run: str
    versions: Mapping[str, int] = {}

    def renewed(self, parts: Iterable[str], number: int) -> Names:
        """Return the names after a change that replaces the actors of some parts."""
        fresh = dict.fromkeys(parts, number)
        kept = {part: version for part, version in self.versions.items() if part.partition("/")[0] not in fresh}
        return self._replace(versions={**kept, **fresh})

    def shared(self, part: str) -> str:
        """Return the name of a part that all lanes share."""
        return f"{self.run}/{self._of_now(part)}"

    def in_any_lane(self, part: str) -> str:
        """Return the name of a part with a blank for the lane, see `fill`."""
        return f"{self.run}{_ANY_LANE}{self._of_now(part)}"

    def in_lane(self, number: int, part: str) -> str:
        """Return the name of a part of one lane."""
        return fill(self.in_any_lane(part), number)

    def _of_now(self, part: str) -> str:
        whole, slash, replica = (part, "", "") if part in self.versions else part.partition("/")
        number = self.versions.get(whole)
        return part if number is None else f"{whole}@{number}{slash}{replica}"


def same(one: Any, other: Any) -> bool:
    """Return whether two handles are of one actor."""
    return bool(one is other or one._actor_id == other._actor_id)


def fill(name: str, lane: int) -> str:
    """Return a name with the number of a lane in the blank for it."""
    head, blank, part = name.partition(_ANY_LANE)
    return f"{head}/lane-{lane}/{part}" if blank else name


def find(name: str) -> Any:
    """Return the handle of an actor; blocks, and raises `UnavailableError` where it cannot be had now."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except Exception as error:  # also what Ray raises where its own service does not answer
        raise UnavailableError(f"actor {name} cannot be found: {error}") from None
