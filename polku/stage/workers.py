"""The replicas of a stage, as the part knows them that hands batches to them: by the names of their actors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polku.link.link import Link
from polku.stage.replicas import Replicas


class Workers:
    """Have a stage's replicas come and go; `link_to` makes the link to one, by its actor's name and its number."""

    def __init__(self, replicas: Replicas, names: Sequence[str], link_to: Callable[[str, int], Link]) -> None:
        self._replicas = replicas
        self._links = dict(zip(names, replicas.links, strict=True))
        self._leaving: dict[str, Link] = {}
        self._link_to = link_to

    async def change(self, names: Sequence[str]) -> int:
        """Give batches to these from now on; return how many the others still have: they may end when that is none."""
        known = {**self._leaving, **self._links}
        links = {
            name: known.pop(name) if name in known else self._link_to(name, number)
            for number, name in enumerate(names, 1)
        }
        self._links, self._leaving = links, known
        left = await self._replicas.exchange(list(links.values()))
        if not left:
            self._leaving = {}
        return left
