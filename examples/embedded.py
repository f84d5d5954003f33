"""POLKU inside a Ray application: a trainer reports its steps, a monitor of the application's own receives them.

    python examples/embedded.py

The pipeline attaches to the application's Ray. Its sender goes to an actor and to tasks; `ActorEmitter` delivers to
the monitor, whose return confirms each batch. After the block nothing of the pipeline is left, and Ray goes on.
"""

from __future__ import annotations

import ray

from polku import ActorEmitter, Batch, Event, Filter, Hub, Sender, new_event


@ray.remote
class Trainer:
    """Train, and send an event for each step."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender

    async def train(self, steps: int) -> int:
        accepted = 0
        for step in range(steps):
            event = new_event("train.step", source="trainer", metadata={"loss": f"{1 / (step + 1):.3f}"})
            accepted += len((await self.sender.send_async(event)).event_ids)
        return accepted


@ray.remote
class Monitor:
    """Keep the lowest loss and count what came."""

    def __init__(self) -> None:
        self.events = 0
        self.lowest = float("inf")

    def take(self, batch: Batch) -> None:
        for event in batch:
            self.events += 1
            self.lowest = min(self.lowest, float(event.metadata["loss"]))

    def report(self) -> tuple[int, float]:
        return self.events, self.lowest


@ray.remote
def evaluate(sender: Sender, loss: float) -> bool:
    return sender.send(new_event("train.evaluated", source="evaluation", metadata={"loss": str(loss)})).ok


def good_enough(event: Event) -> bool:
    return float(event.metadata["loss"]) <= 0.5


def main() -> None:
    ray.init(namespace="application", log_to_driver=False)
    monitor = Monitor.remote()
    hub = Hub(runtime="ray").middleware(Filter(good_enough)).emitter(ActorEmitter(monitor, "take", name="monitor"))
    with hub.start() as pipeline:
        trainer = Trainer.remote(pipeline.sender())
        print("accepted:", ray.get(trainer.train.remote(10)))
        print("evaluated:", ray.get([evaluate.remote(pipeline.sender(), loss) for loss in (0.3, 0.2, 0.9)]))
        print("stopped:", pipeline.stop())
    print("monitor:", ray.get(monitor.report.remote()))
    print("ray goes on:", ray.is_initialized())


if __name__ == "__main__":
    main()
