"""Threads that do not keep the process alive."""

from __future__ import annotations

import asyncio

import pytest

from polku.aio.threads import DaemonExecutor, DaemonThreads


def test_what_is_queued_is_called_before_the_end_and_what_comes_later_is_refused() -> None:
    thread = DaemonExecutor("test")
    calls = [thread.submit(int, text) for text in "12"]
    thread.shutdown()
    assert [call.result(30) for call in calls] == [1, 2]
    with pytest.raises(RuntimeError, match="has ended"):
        thread.submit(int, "3")


async def test_threads_that_were_ended_refuse_a_call_each_time() -> None:
    threads = DaemonThreads("test", 1)
    assert await threads.run(int, "1") == 1
    threads.shutdown()
    async with asyncio.timeout(30):
        for _ in range(3):
            with pytest.raises(RuntimeError, match="have ended"):
                await threads.run(int, "2")
