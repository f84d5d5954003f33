"""The verdict about a simulated case: what each acknowledgement, refusal, dead letter and counter promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polku.codes import Code
from polku.link.suspects import DEATHS
from polku.testing.simulation.ledger import Destination, Input, Ledger
from polku.testing.simulation.lineage import client_of, lineage_of, part_of, root_of

if TYPE_CHECKING:
    from polku.runtime.lane import LaneStatistics

_BUFFERS = ("/buffer", "/lane")  # parts that have one
_BAD_CODES = frozenset({Code.MIDDLEWARE_ERROR, Code.MIDDLEWARE_TIMEOUT, Code.INGESTOR_ERROR})

_LATE = ("block", "hang", "slow")  # code that makes others late too: all of its process, or of its batch


@dataclass(frozen=True, slots=True)
class Promises:
    """Say what a case's plan and faults promise.

    `delivered`: an acknowledged event has arrived. `breaks`: processes die or the network fails, so that outcomes may
    be unknown. `full`: something may be full, or a disk may fail, so that events are refused with BUFFER_FULL.
    `ordered`: nothing in the plan changes the order of a client's events. `vague`: code makes lists of lists of events,
    so that nobody knows what became of which: a refusal is about all of them.
    """

    delivered: bool = False
    breaks: bool = False
    full: bool = False
    ordered: bool = True
    vague: bool = False


class Judge:
    """Compare a ledger with what was promised."""

    def __init__(self, ledger: Ledger, promises: Promises) -> None:
        self._ledger = ledger
        self._promises = promises

    def faults(self) -> list[str]:
        """Return the broken promises, each as one line that begins with its kind."""
        found = list(self._ledger.faults)
        found += self._lost()
        found += self._refusals()
        found += self._letters()
        found += self._counts()
        found += self._doubled()
        if self._promises.ordered:
            found += self._order()
        return found

    def accepted(self, token: str) -> None:
        """Check what an acknowledgement means at the level `delivered`, at the moment of its arrival."""
        for name in sorted(self._ledger.routes.get(token, ())):
            destination = self._ledger.destinations[name]
            if destination.required and not self._has(token, destination, letters=False, seen=set()):
                self._ledger.fault(f"undelivered: {token} is acknowledged as delivered, and not at {name}")

    def committed(self, token: str) -> None:
        """Check what a commit means at the level `delivered`: there a dead letter is an answer, and a drop too."""
        for name in sorted(self._ledger.routes.get(token, ())):
            destination = self._ledger.destinations[name]
            if destination.drops == "drop_oldest":
                continue
            if destination.required and not self._has(token, destination, letters=True, seen=set()):
                self._ledger.fault(f"undelivered: {token} is committed as delivered, and not at {name}")

    def _lost(self) -> Iterator[str]:
        missing: dict[str, list[str]] = {}
        for entry in self._ledger.inputs.values():
            if not entry.accepted or root_of(entry.token) in self._ledger.excused:
                continue
            if not self._is_known(entry.token, set()):
                yield f"lost: {entry.token} was acknowledged, and never came to the buffer"
                continue
            for name in self._wanted(entry.token):
                destination = self._ledger.destinations[name]
                if not destination.required and entry.token in self._ledger.excused_optional:
                    continue
                if not self._has(entry.token, destination, letters=True, seen=set()):
                    missing.setdefault(name, []).append(entry.token)
        for name, tokens in missing.items():
            destination = self._ledger.destinations[name]
            rule = destination.drops
            if rule == "drop_oldest" or not destination.required:
                most = max(map(len, self._ledger.merged.values()), default=1)  # tokens in one event
                if len(tokens) > destination.dropped * most:
                    yield f"lost: {len(tokens)} acknowledged events never came to {name}, {destination.dropped} dropped"
            else:
                yield f"lost: {len(tokens)} acknowledged events never came to {name}: {tokens[:5]}"

    def _is_known(self, token: str, seen: set[str]) -> bool:
        """Return whether something in the ledger says what became of a token at all."""
        ledger = self._ledger
        if token in seen:
            return False
        seen = seen | {token}
        if token in ledger.routes or token in ledger.letters or token in ledger.dropped:
            return True
        if any(self._is_known(other, seen) for other in ledger.same_id.get(token, ())):
            return True
        count = ledger.parts.get(token)
        return count is not None and all(self._is_known(part_of(token, i, count), seen) for i in range(count))

    def _wanted(self, token: str) -> set[str]:
        """Return the destinations that a token goes to, or its parts: as it came to the buffer the last time.

        The step that divides events may come and go while a sender tries again.
        """
        ledger = self._ledger
        count = ledger.parts.get(token, 0)
        if token in ledger.whole or not count:
            return set(ledger.routes.get(token, ()))
        wanted: set[str] = set()
        for i in range(count):
            wanted |= self._wanted(part_of(token, i, count))
        return wanted

    def _has(self, token: str, destination: Destination, *, letters: bool, seen: set[str]) -> bool:
        """Return whether a token has arrived, or why not is known."""
        ledger = self._ledger
        if token in seen:
            return False
        seen = seen | {token}
        if token in destination.arrived or token in ledger.dropped:
            return True
        if letters and (ledger.is_buried(token, destination.name) or token in ledger.unroutable):
            return True
        if destination.name not in self._wanted(token) and (token in ledger.routes or token in ledger.letters):
            return True
        if any(self._has(other, destination, letters=letters, seen=seen) for other in ledger.same_id.get(token, ())):
            return True
        count = ledger.parts.get(token)
        return count is not None and all(
            self._has(part_of(token, i, count), destination, letters=letters, seen=seen) for i in range(count)
        )

    def _doubled(self) -> Iterator[str]:
        """Check that what was sent once came to the buffer once, where no process dies.

        A dead letter may come again.
        """
        ledger = self._ledger
        if self._promises.breaks or self._promises.vague or ledger.counts.get("deaths"):
            return
        for token, times in ledger.entered.items():
            entry = ledger.inputs.get(root_of(token))
            if entry is None or entry.is_pulled or any(name in ledger.letters for name in lineage_of(token)):
                continue
            if times > entry.attempts:
                yield f"doubled: {token} was sent {entry.attempts} times, and came to the buffer {times} times"

    def _refusals(self) -> Iterator[str]:
        for entry in self._ledger.inputs.values():
            for code, reason in entry.refused:
                if not self._is_explained(entry, code):
                    yield f"refused: {entry.token} ({entry.event_id!r}), without cause: {code}: {reason:.200}"

    def _is_explained(self, entry: Input, code: str) -> bool:
        ledger, promises = self._ledger, self._promises
        family = self._family(entry.token)
        if promises.vague:
            family |= {
                *ledger.bad,
                *ledger.unroutable,
                *(t for d in ledger.destinations.values() for t in d.refused | d.failed),
            }
        if code in _BAD_CODES:
            return self._is_blamed(family, code)
        if code == Code.UNROUTABLE:
            return any(token in ledger.unroutable for token in family)
        if code == Code.UNDELIVERED:
            return any(self._was_refused(token, d) for token in family for d in ledger.destinations.values())
        if code == Code.BUFFER_FULL:
            return promises.full
        if code == Code.POISON:
            return self._is_poison(family)
        if code in (Code.UNAVAILABLE, Code.DRAINING):
            return promises.breaks
        return code != Code.MALFORMED

    def _is_blamed(self, family: set[str], code: str) -> bool:
        bad = self._ledger.bad
        if code == Code.MIDDLEWARE_TIMEOUT and any(self._ledger.counts[f"code {deed}"] for deed in _LATE):
            return True
        return any(name in bad for name in family)

    def _is_poison(self, family: set[str]) -> bool:
        """Return whether one of these kills, or may seem to: a receiver died that often while it had them."""
        if max(self._ledger.chance_deaths.values(), default=0) >= DEATHS:
            return True
        return any(self._ledger.bad.get(name, "").startswith("poison") for name in family)

    def _was_refused(self, token: str, destination: Destination) -> bool:
        if token in destination.refused:
            return True
        if destination.attempts is not None and token in destination.failed:
            return True
        return destination.drops == "drop_oldest" and (destination.dropped > 0 or self._forgot_drops())

    def _forgot_drops(self) -> bool:
        """Return whether what a buffer had counted died with it: by chance, or as its journal was taken over.

        What it had dropped is refused, and may be delivered all the same if the journal did not hear of the drop.
        """
        buffers = [name for name, deaths in self._ledger.chance_deaths.items() if deaths and name.endswith(_BUFFERS)]
        return bool(buffers or self._ledger.counts.get("journals taken over"))

    def _family(self, token: str) -> set[str]:
        """Return a token with its parts, and all that was merged with any of them or had its id."""
        ledger = self._ledger
        found: set[str] = set()
        open_ = [token]
        while open_:
            name = open_.pop()
            if name in found:
                continue
            found.add(name)
            open_ += ledger.merged.get(name, ())
            open_ += ledger.same_id.get(name, ())
            count = ledger.parts.get(name, 0)
            open_ += [part_of(name, i, count) for i in range(count)]
            if "/" in name:
                open_.append(name.rpartition("/")[0])
        return found

    def _letters(self) -> Iterator[str]:
        ledger = self._ledger
        for token, letters in ledger.letters.items():
            for emitter, code, reason in letters:
                if not self._is_deserved(token, emitter, code):
                    yield f"innocent: {token} died at {emitter!r}, without cause: {code}: {reason:.200}"

    def _is_deserved(self, token: str, emitter: str, code: str) -> bool:
        family = self._family(token)
        if code == Code.UNROUTABLE:
            return any(name in self._ledger.unroutable for name in family)
        if code == Code.POISON:
            return self._is_poison(family)
        if not emitter:
            return self._is_blamed(family, code)
        destination = self._ledger.destinations[emitter]
        return any(self._was_refused(name, destination) for name in family)

    def _counts(self) -> Iterator[str]:
        """Check that each Ack of a unary call counts what became of its own events, where they came once.

        What is a dead letter may come again, by a replay.
        """
        ledger = self._ledger
        if self._promises.breaks or self._promises.vague or ledger.counts.get("deaths"):
            return
        for call in ledger.calls:
            if any(ledger.inputs[token].attempts > 1 or token in ledger.letters for token in call.tokens):
                continue
            ledger.count("counts compared")
            own: Counter[str] = sum((ledger.fates[token] for token in call.tokens), Counter())
            told = {name: number for name, number in call.counts.items() if number}
            if told != own:
                yield f"counts: a call of {call.client} with {call.tokens[:3]} was told {told}, not {dict(own)}"

    def _order(self) -> Iterator[str]:
        """Check that the events of each client came to each destination in the order in which it sent them.

        Where it was asked to connect to another lane meanwhile, those of each lane by themselves.
        """
        ledger = self._ledger
        sent = {token: number for number, token in enumerate(ledger.inputs)}
        for destination in ledger.destinations.values():
            if not destination.is_ordered:
                continue
            latest: dict[tuple[str, str], str] = {}  # by client and lane, of what has arrived, what it sent last
            for token in destination.arrived:
                entry = ledger.inputs.get(root_of(token))
                if entry is None or entry.attempts > 1 or entry.doubtful or token in destination.troubled:
                    continue
                if token in destination.overtaken or token in ledger.sent_ahead:
                    continue
                if any(name in ledger.letters for name in lineage_of(token)):  # it may have come by a replay
                    continue
                if token in ledger.remade:  # it may have been dropped, or have gone elsewhere, when it was its turn
                    continue
                if entry.is_pulled and self._promises.full:
                    continue  # what was refused for want of room is tried again behind what was on its way already
                may_forget = self._promises.breaks or ledger.counts.get("reloads", 0)
                if may_forget and (token in ledger.turned_away or self._was_refused(token, destination)):
                    continue  # given up, and sent again whole: the buffer died with that verdict, or another took over
                sender = client_of(token), ledger.came_by.get(token, "")
                before = latest.get(sender, entry.token)
                if sent[entry.token] < sent[before]:
                    yield f"order: {token} came to {destination.name} after {before}"
                else:
                    latest[sender] = entry.token


def check_counters(ledger: Ledger, lanes: list[LaneStatistics], emitters: Mapping[str, object]) -> Iterator[str]:
    """Check the counters of a pipeline that has done all its work."""
    for lane in lanes:
        if lane.intake.open:
            yield f"counters: {lane.intake.open} messages are open at the end"
        for name, outlet in lane.buffer.outlets.items():
            if outlet.lag or outlet.lag_bytes or outlet.in_flight:
                yield f"counters: outlet {name} ends with lag {outlet.lag}, {outlet.lag_bytes} bytes: {outlet}"
        if lane.buffer.events or lane.buffer.bytes:
            yield f"counters: the buffer ends with {lane.buffer.events} events, {lane.buffer.bytes} bytes"
        for name, stage in lane.stages.items():
            if stage.held:
                yield f"counters: {name} ends with {stage.held} held events"
        intake = lane.intake
        if intake.accepted + intake.refused < intake.received:
            yield f"counters: of {intake.received} received {intake.accepted} accepted, {intake.refused} refused"
