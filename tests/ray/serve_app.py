"""An application of Ray Serve for tests: what it does with an event stands in files of a folder."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, NamedTuple

from polku import Batch, Event, RejectedError, RetryableError
from tests.emit.file_store import FileStore

APP = "tests"


class Request(NamedTuple):
    """An event, and the folder of the test that it is of."""

    folder: str
    event: Event


class Store:
    """Keep the ids that come; refuse what the folder says."""

    def __call__(self, request: Request) -> None:
        (failure, *_) = [*FileStore(Path(request.folder)).emit(Batch.from_events([request.event])), None]
        if failure is not None:
            raise (RetryableError if failure.retryable else RejectedError)(failure.reason)

    async def answer(self, request: Request) -> Any:
        """Do what the event's type says."""
        kind = request.event.event_type
        if kind == "dies" or (kind == "dies once" and is_first(request)):
            os._exit(1)
        if kind == "raises":
            raise ValueError("no answer")
        await asyncio.sleep(0.01)
        return Event(id="other", event_type="answer") if kind == "changes" else {"replica": str(os.getpid())}


def is_first(request: Request) -> bool:
    """Return whether this was not asked for this folder before."""
    try:
        Path(request.folder, "asked").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def deploy(name: str, *, replicas: int = 1, ongoing: int = 8, queued: int = -1) -> None:
    """Run the application in the Ray that is there, without ports."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    deployment = serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=ongoing,
        max_queued_requests=queued,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=1,
        graceful_shutdown_timeout_s=1,
    )(Store)
    serve.run(deployment.bind(), name=name, route_prefix=None)
