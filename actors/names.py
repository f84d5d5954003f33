"""The names of a pipeline's actors: by them one finds another, also in a lane that came later than itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import ray

from polku.errors import UnavailableError

NAMESPACE = "polku"
_ANY_LANE = "/*/"


class Names(NamedTuple):
    """Make names; `run` is what only this run of the pipeline has, without a slash."""

    run: str

    def shared(self, part: str) -> str:
        """Return the name of a part that all lanes share."""
        return f"{self.run}/{part}"

    def in_any_lane(self, part: str) -> str:
        """Return the name of a part with a blank for the lane, see `fill`."""
        return f"{self.run}{_ANY_LANE}{part}"

    def in_lane(self, number: int, part: str) -> str:
        """Return the name of a part of one lane."""
        return fill(self.in_any_lane(part), number)


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
