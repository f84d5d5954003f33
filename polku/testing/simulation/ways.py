"""What the parts of a simulated cluster hand batches to, and how it comes to be others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from polku.link.backlog import Window
from polku.link.link import Link, Peer
from polku.stage.workers import Workers


class HandedOn:
    """The replicas that a part hands batches to, by stage; of a shared stage those of each lane."""

    def __init__(self) -> None:
        self._workers: dict[str, list[Workers]] = {}
        self._number = 0  # of the latest change

    def note(self, stage: str, workers: Workers) -> None:
        """Add those of one link."""
        self._workers.setdefault(stage, []).append(workers)

    async def change(self, number: int, stage: str, names: Sequence[str]) -> int:
        """Give batches to these from now on, unless a later change was here; return how many others still have."""
        if number < self._number:
            return 0
        self._number = number
        return sum([await workers.change(names) for workers in self._workers.get(stage, ())])


class WayOut:
    """The link to what comes next, which may come to be another one: `connect` makes the peer to what is there now."""

    def __init__(
        self,
        link: Link,
        close: Callable[[], Awaitable[None]],
        connect: Callable[[], tuple[Peer, Callable[[], Awaitable[None]]]],
        version: int,
        window: Window,
    ) -> None:
        self.link = link
        self.close = close
        self._connect = connect
        self._version = version
        self._window = window

    async def lead(self, version: int, *, pauses: bool = False) -> bool:
        """Hand on to what is there in a version; return False while something has no answer, or is sent.

        One that `pauses` by itself does so for as long as that takes.
        """
        if version <= self._version:
            return True
        if self.link.open or not (pauses or self.link.is_at_rest):
            return False
        self._version, before = version, self.close
        self.link.pause()
        peer, self.close = self._connect()
        self.link.lead_to(peer, self._window, eager=False)
        self.link.resume()
        await before()
        return True
