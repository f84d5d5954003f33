"""Every call of the fast door gets an answer, whatever becomes of those that came with it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from polku import new_event
from polku.batch.batch import Batch
from polku.batch.receipt import Receipt
from polku.gateway.fast import FastServer, _next_calls
from polku.gateway.intake import Intake
from polku.health import Health
from polku.limits import Limits
from polku.link.link import Link, LocalPeer
from polku.v1.gateway_pb2 import IngestEvent
from tests.buffer.parts import until
from tests.support.hostile import HOSTILE

OK, INTERNAL = "ok", grpc.StatusCode.INTERNAL.value[0]


class Front:
    """Stand for the door in Rust: write down the answer of each call."""

    def __init__(self) -> None:
        self.answers: dict[int, Any] = {}

    def respond(self, call_id: int, message: bytes) -> None:
        self.answers.setdefault(call_id, OK)

    def fail(self, call_id: int, status: int, details: str, metadata: object) -> None:
        self.answers.setdefault(call_id, status)


class Taking:
    async def push(self, batch: Batch) -> Receipt:
        return Receipt()


class Odd(Intake):
    """Be an intake with a fault of its own: one request it cannot look at."""

    error: type[BaseException] = RuntimeError

    def admit(self, request: IngestEvent, size: int) -> Any:
        if request.source == "odd":
            raise self.error
        return super().admit(request, size)

    async def admit_raw(self, data: bytes, context: Any, reader: str) -> Any:
        await asyncio.sleep(0)
        raise self.error


def call(number: int, source: str, *, raw: bool = False) -> tuple[int, int, int, bytes, str]:
    event = new_event("x", source=source)
    request = IngestEvent(source=source, raw=b"x") if raw else IngestEvent(source=source, event=event)
    return 0, number, 0, request.SerializeToString(), "peer"


async def health() -> Health:
    return Health(True, {}, 0)


@pytest.mark.parametrize("error", [*HOSTILE, RuntimeError])
async def test_a_call_that_cannot_be_looked_at_costs_no_other_its_answer(error: type[BaseException]) -> None:
    intake = Odd({}, None, Link("link", LocalPeer(Taking())), Limits())
    intake.error = error
    door, front = FastServer(intake, health), Front()
    door._take(front, [call(1, "s"), call(2, "odd"), call(3, "s"), call(4, "s", raw=True), call(5, "s")])
    await until(lambda: len(front.answers) == 5)
    assert front.answers == {1: OK, 2: INTERNAL, 3: OK, 4: INTERNAL, 5: OK}


@pytest.mark.parametrize("error", [*HOSTILE, RuntimeError])
async def test_calls_that_go_together_are_answered_where_their_push_fails(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Intake({}, None, Link("link", LocalPeer(Taking())), Limits())

    async def together(admissions: object, size: int) -> Any:
        raise error

    monkeypatch.setattr(intake, "together", together)
    door, front = FastServer(intake, health), Front()
    door._take(front, [call(1, "s"), call(2, "s")])
    await until(lambda: len(front.answers) == 2)
    assert front.answers == {1: INTERNAL, 2: INTERNAL}


class Stuttering:
    """Fail to bring calls, once, and then close."""

    def __init__(self) -> None:
        self.steps: list[Any] = [OSError("torn"), [call(1, "s")], None]

    def recv_batch(self, most: int) -> Any:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def test_the_thread_that_brings_calls_outlives_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polku.gateway.fast._AGAIN_SECONDS", 0)
    front = Stuttering()
    assert len(_next_calls(front) or []) == 1
    assert _next_calls(front) is None
