"""Files with hubs, for commands."""

from __future__ import annotations

PIPELINE = """
from polku import Filter, Hub, StdoutEmitter
hub = Hub().middleware(Filter(lambda event: event.event_type != "noise")).emitter(StdoutEmitter())
other = Hub().emitter(StdoutEmitter(), name="second").emitter(StdoutEmitter("compact"))
broken = 5
"""

DOWN = """
from polku import BufferStrategy, Hub

class Down:
    name = "down"
    def emit(self, batch):
        raise ConnectionError("nobody is there")

async def hangs(batch):
    import asyncio
    await asyncio.sleep(3600)

memory = Hub().emitter(hangs, name="out")
durable = Hub().buffer_strategy(BufferStrategy.durable("journal")).emitter(Down())
at_once = Hub().emitter(lambda batch: None, name="out")
"""
