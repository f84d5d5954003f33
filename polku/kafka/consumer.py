"""One librdkafka consumer and the thread that polls it; what it hears it tells the event loop, in order."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

from polku.kafka.client import LOG, explain, open_client

_POLL_SECONDS = 0.1
_PAUSED_SECONDS = 0.01  # while calls may come soon that this thread has to make
_PROBE_SECONDS = 1.0
_LOOK_SECONDS = 1.0

Place: TypeAlias = tuple[str, int]
Offsets: TypeAlias = Mapping[Place, int]


class Listener(Protocol):
    """What a consumer tells; all of it is called in the event loop."""

    def assigned(self, places: Sequence[Place]) -> None:
        """These partitions are ours from now on."""

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        """These will be somebody else's: finish what is in flight, and return what may be committed."""
        ...

    def lost(self, places: Sequence[Place]) -> None:
        """These are somebody else's already."""

    def arrived(self, messages: Sequence[Any]) -> None:
        """Records came, and errors between them."""

    def committed(self, offsets: Offsets, fault: str) -> None:
        """These offsets were committed, or not: then why."""

    def heard(self, error: Any) -> None:
        """The client says something about its connections."""

    def well(self) -> None:
        """A broker answered."""

    def failed(self, error: BaseException) -> None:
        """The thread ended."""


class Consumer:
    """Subscribe, and tell the listener, `at_once` records at most; `close` leaves the group."""

    def __init__(
        self,
        where: str,
        settings: Mapping[str, Any],
        topics: Sequence[str],
        listener: Listener,
        *,
        at_once: int,
        revoke_timeout: float,
    ) -> None:
        import confluent_kafka

        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._at_once = at_once
        self._revoke_timeout = revoke_timeout
        callbacks = {"error_cb": self._heard, "on_commit": self._on_commit}
        self._client = open_client(where, confluent_kafka.Consumer, {**settings, **callbacks})
        self._make = confluent_kafka.TopicPartition
        self._error: type[Exception] = confluent_kafka.KafkaException
        self._pulling, self._ended = True, False
        self._probe_at = 0.0
        self._open = threading.Event()
        self._open.set()
        self._calls: deque[Callable[[], object]] = deque()
        self._paused: set[Place] = set()
        # How often each partition became ours: counted by the thread, and as far as the loop has heard of it.
        self._lives: dict[Place, int] = {}
        self._heard_lives: dict[Place, int] = {}
        self.lag = 0
        self._thread = threading.Thread(target=self._run, args=(topics,), name="polku-kafka-source", daemon=True)
        self._thread.start()

    def pause(self, place: Place) -> None:
        """Fetch nothing of a partition until `resume`."""
        self._paused.add(place)
        self._calls.append(partial(self._client.pause, [self._make(*place)]))

    def resume(self, place: Place) -> None:
        """Fetch from a partition again."""
        self._paused.discard(place)
        self._calls.append(partial(self._client.resume, [self._make(*place)]))

    def hold(self) -> None:
        """Poll no more until `go_on`, for less than librdkafka's max.poll.interval.ms."""
        self._open.clear()

    def go_on(self) -> None:
        """Poll again."""
        self._open.set()

    def commit(self, offsets: Offsets) -> None:
        """Commit, and tell the listener of it later; partitions that are somebody else's by then are left out."""
        self._calls.append(partial(self._commit_ours, offsets, dict(self._heard_lives)))

    async def commit_now(self, offsets: Offsets) -> None:
        """Commit and wait for the answer."""
        done = asyncio.Event()
        self._calls.append(partial(self._commit_and_tell, offsets, dict(self._heard_lives)))
        self._calls.append(partial(self._tell, done.set))
        await done.wait()

    def stop(self) -> None:
        """Pull nothing more; the group stays joined."""
        self._pulling = False

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is pulled."""
        return not self._pulling

    async def close(self) -> None:
        """Leave the group and release the client."""
        self._ended = True
        await asyncio.to_thread(self._thread.join, self._revoke_timeout + 10.0)

    def _run(self, topics: Sequence[str]) -> None:
        try:
            self._client.subscribe(
                list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            look_at = 0.0
            while not self._ended:
                self._make_calls()
                self._poll()
                now = time.monotonic()
                if now >= look_at:
                    look_at = now + _LOOK_SECONDS
                    self._look()
                if self._probe_at and now >= self._probe_at:
                    self._probe()
        except Exception as error:
            self._tell(self._listener.failed, error)
        finally:
            try:
                self._make_calls()
            finally:
                self._client.close()

    def _poll(self) -> None:
        if not self._pulling:
            time.sleep(_PAUSED_SECONDS)  # no poll: what it brings would only be dropped
            return
        if not self._open.wait(_PAUSED_SECONDS):
            return
        # `consume` alone would wait for the whole time, or until there are so many.
        first = self._client.poll(_PAUSED_SECONDS if self._paused else _POLL_SECONDS)
        if first is not None:
            self._hand_over([first, *self._client.consume(self._at_once - 1, 0)])

    def _hand_over(self, messages: Sequence[Any]) -> None:
        """Give records to the event loop, and wait until it has them: it may want partitions to be paused."""
        taken = threading.Event()

        def take() -> None:
            try:
                self._listener.arrived(messages)
            except Exception as error:
                self._listener.failed(error)
            finally:
                taken.set()

        self._tell(take)
        while not self._ended and not taken.wait(_POLL_SECONDS):
            pass

    def _on_assign(self, client: Any, partitions: Sequence[Any]) -> None:
        lives = {place: self._lives.get(place, 0) + 1 for place in _places(partitions)}
        self._lives.update(lives)
        self._tell(self._hear_of_assignment, lives)

    def _hear_of_assignment(self, lives: Mapping[Place, int]) -> None:
        self._heard_lives.update(lives)
        try:
            self._listener.assigned(list(lives))
        except Exception as error:
            self._listener.failed(error)

    def _on_revoke(self, client: Any, partitions: Sequence[Any]) -> None:
        places = _places(partitions)
        self._paused.difference_update(places)
        lives = {place: self._lives[place] for place in places if place in self._lives}
        offsets = self._ask(places)
        if offsets:
            self._commit_and_tell(offsets, lives)
        self._end_lives(places)

    def _on_lost(self, client: Any, partitions: Sequence[Any]) -> None:
        self._end_lives(_places(partitions))
        self._tell(self._listener.lost, _places(partitions))

    def _end_lives(self, places: Sequence[Place]) -> None:
        """Know that these partitions are not ours: what was still to be committed of them is not committed any more."""
        for place in places:
            self._lives[place] = self._lives.get(place, 0) + 1

    def _still_ours(self, offsets: Offsets, lives: Mapping[Place, int]) -> Offsets:
        return {place: offset for place, offset in offsets.items() if lives.get(place) == self._lives.get(place)}

    def _on_commit(self, error: Any, partitions: Sequence[Any]) -> None:
        fault = next((explain(bad) for bad in (error, *(p.error for p in partitions)) if bad is not None), "")
        self._tell(self._listener.committed, {(p.topic, p.partition): p.offset for p in partitions}, fault)

    def _commit_ours(self, offsets: Offsets, lives: Mapping[Place, int]) -> None:
        if offsets := self._still_ours(offsets, lives):
            self._client.commit(offsets=self._partitions(offsets), asynchronous=True)

    def _commit_and_tell(self, offsets: Offsets, lives: Mapping[Place, int]) -> None:
        offsets = self._still_ours(offsets, lives)
        if not offsets:
            return
        fault = ""
        try:
            self._client.commit(offsets=self._partitions(offsets), asynchronous=False)
        except (self._error, RuntimeError) as error:
            fault = str(error)
            LOG.warning("commit", "offsets were not committed, and their records will be repeated: %s", fault)
        self._tell(self._listener.committed, offsets, fault)

    def _look(self) -> None:
        """Count what waits on the brokers, as far as the client has heard of it."""
        lag = 0
        for partition in self._client.position(self._client.assignment()):
            _, high = self._client.get_watermark_offsets(partition, cached=True)
            lag += max(0, high - partition.offset) if partition.offset >= 0 else 0
        self.lag = lag

    def _probe(self) -> None:
        """Ask a broker for its topics: an idle client says when brokers go, but not when they come back."""
        try:
            self._client.list_topics(timeout=_PROBE_SECONDS)
        except self._error:
            self._probe_at = time.monotonic() + _PROBE_SECONDS
        else:
            self._probe_at = 0.0
            self._tell(self._listener.well)

    def _heard(self, error: Any) -> None:
        self._probe_at = self._probe_at or time.monotonic() + _PROBE_SECONDS
        self._tell(self._listener.heard, error)

    def _ask(self, places: Sequence[Place]) -> Offsets:
        """Tell the event loop of a revocation; it answers within the time for that, or nothing is committed."""
        question = self._listener.revoked(places)
        try:
            answer = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:  # the loop is closed
            question.close()
            return {}
        try:
            return answer.result(self._revoke_timeout + 5.0)
        except concurrent.futures.CancelledError:
            pass
        except TimeoutError:
            answer.cancel()
            LOG.warning("revocation", "the event loop did not answer a revocation of %s", places)
        except Exception as error:
            self._tell(self._listener.failed, error)
        self._tell(self._listener.lost, places)
        return {}

    def _partitions(self, offsets: Offsets) -> list[Any]:
        return [self._make(topic, partition, offset) for (topic, partition), offset in offsets.items()]

    def _make_calls(self) -> None:
        """Call the client: made on the loop's thread, such calls would stop it until the client has time for them."""
        while self._calls:
            call = self._calls.popleft()
            try:
                call()
            except self._error as error:  # too late: the partition is somebody else's by now
                LOG.info("late", "%s", error)

    def _tell(self, call: Any, *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed: nobody waits for this any more
            self._ended = True


def _places(partitions: Sequence[Any]) -> list[Place]:
    return [(partition.topic, partition.partition) for partition in partitions]
