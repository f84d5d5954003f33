"""Connect a consumer with the pipeline: a stream and a worker for each partition that is assigned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from polku.contracts import PulledStream, SourceState
from polku.errors import DrainingError
from polku.kafka.client import LOG, Alarm, explain
from polku.kafka.consumer import Consumer, Offsets, Place
from polku.kafka.fields import MAX_KEY_BYTES, Field
from polku.kafka.partition import Partition, split_places
from polku.kafka.reading import Decode, Reader
from polku.kafka.tls import KafkaTls
from polku.pull.block import BlockStream

if TYPE_CHECKING:
    from polku.kafka.source import KafkaSource

_AT_ONCE = 1_000  # records handed over, at most a tenth of the window: a partition is held up only when it is over it
_CROWDED_SECONDS = 0.1  # until a partition that has enough is paused


_READERS = {
    Decode.EVENT: ("passthrough", "event"),
    Decode.JSON: ("json", ""),
    Decode.CLOUDEVENTS: ("cloudevents", ""),
    Decode.RECORD: ("passthrough", ""),  # of its events none has to be read
}


class Puller:
    """Run a KafkaSource."""

    def __init__(self, config: KafkaSource) -> None:
        self._config = config
        kept = [Field(name) for name in config.fields or ()]
        self._reader = Reader(Decode(config.decode), config.headers, kept, tombstones=config.tombstones)
        self._tls = KafkaTls(config)
        self._consumer: Consumer | None = None
        self._open_stream: Callable[..., PulledStream] | None = None
        self._partitions: dict[Place, Partition] = {}
        self._workers: dict[Place, asyncio.Task[None]] = {}
        self._ended: asyncio.Future[None] | None = None
        self._stopped = False
        self._alarm = Alarm("KafkaSource")
        self._crowded: set[Place] = set()  # partitions that have enough, and are not paused yet
        self._pausing: asyncio.TimerHandle
        self._topic_faults: dict[str, str] = {}
        self._commit_fault = ""
        self._records = self._commits = self._restarts = 0

    async def run(self, open_stream: Callable[..., PulledStream]) -> None:
        """Be a member of the group until `drain` or `close`."""
        self._open_stream = open_stream
        self._ended = asyncio.get_running_loop().create_future()
        self._consumer = self._join()
        try:
            while not self._ended.done():
                await asyncio.wait([self._ended], timeout=self._config.commit_seconds)
                self._commit()
                if self._tls.has_changed() and not self._stopped:
                    await self._join_again(self._consumer)
            self._ended.result()
        finally:
            await self._leave()  # not `close`: after a fault it is run again

    def _join(self) -> Consumer:
        config = self._config
        return Consumer(
            "KafkaSource",
            {**config.settings(), **self._tls.settings()},
            config.topics,
            self,
            at_once=min(_AT_ONCE, 1 + config.window // 10),
            revoke_timeout=config.revoke_seconds,
        )

    async def _join_again(self, consumer: Consumer) -> None:
        """Leave the group once what is in flight has arrived, and join it with the certificates as they are now."""
        consumer.stop()
        offsets = await self.revoked(list(self._partitions))
        if offsets:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(consumer.commit_now(offsets), self._config.revoke_seconds)
        await consumer.close()
        if not self._stopped:
            self._consumer = self._join()

    def stop(self) -> None:
        """Pull nothing more."""
        self._stopped = True
        if self._consumer is not None:
            self._consumer.stop()
        for partition in self._partitions.values():
            partition.forget_waiting()

    async def drain(self) -> None:
        """Wait for what is in flight, commit it, and leave the group."""
        self.stop()
        for partition in list(self._partitions.values()):
            await partition.idle()
        offsets = self._committable(self._partitions)
        if self._consumer is not None and offsets:
            await self._consumer.commit_now(offsets)
        await self.close()

    async def close(self) -> None:
        """Leave the group; what is still in flight will be pulled again."""
        self.stop()
        await self._leave()

    async def _leave(self) -> None:
        for partition in self._partitions.values():
            partition.give_up()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()
        self.lost(list(self._partitions))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def state(self) -> SourceState:
        """Return a snapshot."""
        consumer = self._consumer
        lag = consumer.lag if consumer is not None else 0
        flying = sum(partition.records for partition in list(self._partitions.values()))
        fault = next(iter(list(self._topic_faults.values())), "")
        text = f"{len(self._partitions)} partitions, {self._records} records, {flying} in flight, lag {lag}"
        skipped, left_out = self._reader.skipped, self._reader.keys_left_out
        text += f", {skipped} without a value were skipped" if skipped else ""
        text += f", offsets began again {self._restarts} times" if self._restarts else ""
        text += f", {left_out} keys over {MAX_KEY_BYTES} bytes were left out" if left_out else ""
        alarm = self._alarm.text or fault or self._commit_fault
        return SourceState(text, alarm, self._records, self._commits, lag, flying)

    def assigned(self, places: Sequence[Place]) -> None:
        """Begin to work on these partitions, unless this member is leaving the group, or joins it again."""
        if self._consumer is None or self._consumer.is_stopped:
            return
        for place in places:
            self._topic_faults.pop(place[0], None)
            self._begin(place)

    async def revoked(self, places: Sequence[Place]) -> Offsets:
        """Wait for what is in flight, as long as that may take; what has not left will be pulled by somebody else."""
        mine = {place: self._partitions[place] for place in places if place in self._partitions}
        for partition in mine.values():
            partition.forget_waiting()
        try:
            async with asyncio.timeout(self._config.revoke_seconds):
                for partition in mine.values():
                    await partition.idle()
        except TimeoutError:
            pass
        offsets = self._committable(mine)
        self.lost(places)
        return offsets

    def lost(self, places: Sequence[Place]) -> None:
        """Forget these partitions; what is in flight arrives, and will come again."""
        for place in places:
            self._partitions.pop(place, None)
            self._uncrowd([place])
            worker = self._workers.pop(place, None)
            if worker is not None:
                worker.cancel()

    def arrived(self, messages: Sequence[Any]) -> None:
        """Queue records at their partitions, and hold the consumer up where one of these has enough."""
        faulty = [message for message in messages if message.error() is not None]
        if faulty:
            self._topic_faults.update((message.topic() or "", explain(message.error())) for message in faulty)
            messages = [message for message in messages if message.error() is None]
        for place, records in split_places(messages):
            partition = self._partitions.get(place)
            if partition is None or self._stopped:
                continue
            self._topic_faults.pop(place[0], None)
            self._records += len(records)
            partition.arrived(records)
            if not partition.paused and self._is_full(partition):
                self._crowd(place)

    def _crowd(self, place: Place) -> None:
        """Pull nothing until a partition has room again; where that takes its time, the others go on without it.

        A partition that is paused loses what was fetched of it, so that this is not done each time that it is full.
        """
        if not self._crowded:
            assert self._consumer is not None
            self._consumer.hold()
            self._pausing = asyncio.get_running_loop().call_later(_CROWDED_SECONDS, self._pause_crowded)
        self._crowded.add(place)

    def _pause_crowded(self) -> None:
        for place in self._crowded:
            partition = self._partitions.get(place)
            if partition is not None and not partition.paused and self._consumer is not None:
                partition.paused = True
                self._consumer.pause(place)
        self._uncrowd(list(self._crowded))

    def _uncrowd(self, places: Sequence[Place]) -> None:
        if self._crowded:
            self._crowded.difference_update(places)
            if not self._crowded:
                self._pausing.cancel()
                if self._consumer is not None:
                    self._consumer.go_on()

    def committed(self, offsets: Offsets, fault: str) -> None:
        """Take note of a commit; one that failed is made again."""
        self._commits += not fault
        self._commit_fault = f"offsets cannot be committed: {fault}" if fault else ""
        for place, offset in offsets.items():
            partition = self._partitions.get(place)
            if partition is not None and not fault:
                partition.committed = offset
            elif partition is not None:
                partition.requested = partition.committed

    def heard(self, error: Any) -> None:
        """Take what the client says about its connections."""
        self._alarm.hear(error)

    def well(self) -> None:
        """Know that a broker answered."""
        self._alarm.clear()

    def failed(self, error: BaseException) -> None:
        """End, to be started again."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _begin(self, place: Place) -> None:
        assert self._open_stream is not None
        assert self._consumer is not None
        config = self._config
        reader, format = _READERS.get(Decode(config.decode), ("", config.format))
        source = config.source or place[0]
        stream = self._open_stream(source, cluster=config.cluster, format=format, reader=reader)
        takes_blocks = isinstance(stream, BlockStream)  # once: to ask takes as long as ten records
        encoder = self._reader.encoder(place, source, config.cluster) if takes_blocks else None
        partition = self._partitions[place] = Partition(stream, partial(self._began_again, place), encoder)
        self._consumer.resume(place)  # it may have been ours before, and paused
        worker = asyncio.get_running_loop().create_task(self._work(place, partition))
        worker.add_done_callback(partial(self._ended_working, place, partition))
        self._workers[place] = worker

    async def _work(self, place: Place, partition: Partition) -> None:
        while True:
            chunk = await partition.chunk()
            answer = asyncio.ensure_future(await self._push(partition, chunk.messages))
            partition.left(chunk, answer)
            answer.add_done_callback(partial(self._answered, place, partition))

    async def _push(self, partition: Partition, messages: Sequence[Any]) -> Awaitable[None]:
        stream, encoder = partition.stream, partition.encoder
        block = encoder.encode(messages) if encoder is not None else None
        if block is not None:
            return await cast("BlockStream", stream).push_block(block)
        return await stream.push([r for each in messages if (r := self._reader.read(each)) is not None])

    def _ended_working(self, place: Place, partition: Partition, worker: asyncio.Task[None]) -> None:
        """Begin again as a member of the group where a partition's task ended although the partition is ours."""
        partition.give_up()
        if self._workers.get(place) is worker:
            self._fail_with(worker, f"the work on partition {place[1]} of topic {place[0]} was cancelled")

    def _answered(self, place: Place, partition: Partition, answer: asyncio.Future[None]) -> None:
        if self._partitions.get(place) is partition:
            self._fail_with(answer, f"an answer about partition {place[1]} of topic {place[0]} was cancelled")
        partition.settle()
        if self._is_full(partition, share=0.5):
            return
        self._uncrowd([place])
        if partition.paused:
            partition.paused = False
            if self._consumer is not None and self._partitions.get(place) is partition:
                self._consumer.resume(place)

    def _fail_with(self, done: asyncio.Future[None], cancelled: str) -> None:
        """End, to be started again, unless what is done succeeded or ended with the pipeline."""
        error = RuntimeError(cancelled) if done.cancelled() else done.exception()
        if error is not None and not isinstance(error, DrainingError):
            self.failed(error)

    def _began_again(self, place: Place, before: int, offset: int) -> None:
        self._restarts += 1
        text = "topic %s, partition %d: after offset %d came %d: its topic was made again, or brokers lost records"
        LOG.warning((place, "restart"), text, place[0], place[1], before - 1, offset)

    def _is_full(self, partition: Partition, share: float = 1.0) -> bool:
        share /= max(1, len(self._partitions))
        return partition.records > self._config.window * share or partition.bytes > self._config.window_bytes * share

    def _commit(self) -> None:
        offsets = self._committable({place: p for place, p in self._partitions.items() if p.dirty})
        if self._consumer is not None and offsets:
            for place, offset in offsets.items():
                self._partitions[place].requested = offset
            self._consumer.commit(offsets)

    def _committable(self, partitions: Mapping[Place, Partition]) -> dict[Place, int]:
        return {place: partition.answered for place, partition in partitions.items() if partition.is_ahead}
