"""What failures of a deployment mean to events; Serve itself is in tests/ray."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from polku import (
    Batch,
    Event,
    Hub,
    MisconfiguredError,
    PlanError,
    ServeEmitter,
    ServeMiddleware,
    StdoutEmitter,
    new_event,
)
from polku.errors import RejectedError, RetryableError
from polku.ray_serve import calls
from polku.testing import run

# To import Ray Serve takes most of a second, in each worker of the tests: only what runs does.
pytestmark = pytest.mark.skipif(
    find_spec("fastapi") is None, reason="Ray Serve is not installed: pip install 'polku[serve]'"
)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import Ray Serve, which warns of its own use of other libraries."""
    with warnings.catch_warnings(action="ignore"):
        import ray.serve  # noqa: F401


class Response:
    def __init__(self, answer: Any) -> None:
        self.answer, self.is_cancelled = answer, False

    def __await__(self) -> Any:
        return self.wait().__await__()

    async def wait(self) -> Any:
        if self.answer is None:
            await asyncio.sleep(60)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """Answer for each event by its id, with the next of the answers that a test names."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.responses: list[Response] = []
        self.came: list[str] = []

    def remote(self, event: Event) -> Response:
        self.came.append(event.id)
        left = self.answers.get(event.id, [])
        self.responses.append(Response(left.pop(0) if left else "ok"))
        return self.responses[-1]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handle], list[str]]:
    def serve(handle: Handle) -> list[str]:
        looks: list[str] = []

        def look_up(to: Any) -> Handle:
            looks.append(str(to))
            return handle

        monkeypatch.setattr(calls, "_look_up", look_up)
        return looks

    return serve


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("predict", "Traceback", error)


async def emit(ids: str, **options: Any) -> list[tuple[str, str, bool]]:
    emitter = ServeEmitter("app", **options).build(None)  # type: ignore[arg-type]
    emitter.start()
    try:
        failures = await emitter.emit(Batch.from_events([new_event("x", id=one) for one in ids]))
    finally:
        emitter.close()
    return sorted((failure.event_id, failure.reason, failure.retryable) for failure in failures)


async def test_a_full_deployment_is_called_again(serve: Callable[[Handle], list[str]]) -> None:
    from ray.serve.exceptions import BackPressureError

    serve(handle := Handle(a=[BackPressureError(1, 1), BackPressureError(1, 1)]))
    assert await emit("ab") == []
    assert sorted(handle.came) == ["a", "a", "a", "b"]


async def test_one_that_stays_full_may_take_the_event_later(serve: Callable[[Handle], list[str]]) -> None:
    from ray.serve.exceptions import BackPressureError

    serve(Handle(a=[BackPressureError(1, 1)] * 9))
    ((event_id, reason, retryable),) = await emit("ab", timeout=0.2)
    assert (event_id, reason.partition(": ")[0], retryable) == ("a", "app is full", True)


async def test_an_event_of_which_replicas_die_is_found(serve: Callable[[Handle], list[str]]) -> None:
    serve(handle := Handle(a=[ActorDiedError()] * 3, b=[ActorDiedError()]))
    ((event_id, reason, retryable),) = await emit("abc")
    assert (event_id, reason.partition(": ")[0], retryable) == ("a", "3 replicas of app died of it", False)
    assert handle.came.count("b") == 2


async def test_what_a_deployment_raises_is_about_that_event_unless_it_says_otherwise(
    serve: Callable[[Handle], list[str]],
) -> None:
    answers = {"a": ValueError("odd"), "b": RejectedError("never"), "c": RetryableError("later")}
    serve(Handle(**{event_id: [raised(error)] for event_id, error in answers.items()}))
    assert await emit("abcd") == [
        ("a", "app: ValueError: odd", False),
        ("b", "never", False),
        ("c", "later", True),
    ]


async def test_what_a_deployment_raises_is_given_up_with_the_traceback_of_the_replica(
    serve: Callable[[Handle], list[str]],
) -> None:
    remote = 'Traceback: File "store.py", line 7, in keep'
    serve(Handle(a=[RayTaskError("predict", remote, ValueError("odd"))], b=[KeyError("here")]))
    emitter = ServeEmitter("app").build(None)  # type: ignore[arg-type]
    emitter.start()
    try:
        failures = await emitter.emit(Batch.from_events([new_event("x", id=one) for one in "ab"]))
    finally:
        emitter.close()
    there, here = (failure.detail for failure in sorted(failures, key=lambda failure: failure.event_id))
    assert remote in there
    assert "KeyError: 'here'" in here
    assert "calls.py" in here
    assert "calls.py" not in there


async def test_a_call_that_takes_too_long_is_cancelled(serve: Callable[[Handle], list[str]]) -> None:
    serve(handle := Handle(a=[None]))
    assert await emit("a", timeout=0.05) == [("a", "app did not return within 0.05 s", True)]
    assert handle.responses[0].is_cancelled


async def test_a_deployment_that_is_deleted_is_looked_up_again_and_the_others_do_not_try(
    serve: Callable[[Handle], list[str]],
) -> None:
    from ray.serve.exceptions import DeploymentUnavailableError

    gone = DeploymentUnavailableError("app/Store")
    looks = serve(handle := Handle(a=[gone]))
    failures = await emit("abc", max_in_flight=1)
    assert [(event_id, retryable) for event_id, _, retryable in failures] == [(one, True) for one in "abc"]
    assert handle.came == ["a"]
    assert await emit("abc", deployment="Store", method="keep") == []
    assert looks == ["app", "app/Store.keep"]


async def test_where_there_is_nothing_to_call_no_event_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(MisconfiguredError, match="app: no Ray runs in this process"):
        await emit("ab")

    from ray import serve
    from ray.serve.exceptions import RayServeException

    def missing(name: str) -> None:
        raise RayServeException(f"Application '{name}' does not exist.")

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr(serve, "get_app_handle", missing)
    with pytest.raises(MisconfiguredError, match="app: Application 'app' does not exist"):
        await emit("ab")


async def test_events_of_a_batch_go_at_once_but_not_more_than_so_many(serve: Callable[[Handle], list[str]]) -> None:
    serve(handle := Handle(a=[None], b=[None], c=[None]))
    task = asyncio.ensure_future(emit("abcd", max_in_flight=2))
    async with asyncio.timeout(30):
        while len(handle.came) < 2:  # noqa: ASYNC110 - the handle is looked up in a thread
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert handle.came == ["a", "b"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [response.is_cancelled for response in handle.responses] == [True, True]


async def test_answers_continue_under_the_id_that_was_asked_for(serve: Callable[[Handle], list[str]]) -> None:
    serve(Handle(a=[Event(id="other", event_type="answer")], b=[{"team": "network"}], c=[raised(ValueError("odd"))]))
    step = ServeMiddleware("app", answer=lambda event, result: None if result == "ok" else result)
    from polku.clock import SystemClock

    running: Any = step.build(SystemClock())
    await running.start()
    outcome = await running.submit([new_event("x", id=one) for one in "abcd"])
    await running.close()
    assert [(event.id, event.event_type, dict(event.metadata)) for event in outcome.events] == [
        ("a", "answer", {}),
        ("b", "x", {"team": "network"}),
        ("d", "x", {}),
    ]
    (dead,) = outcome.refused
    assert (dead.event.id, "ValueError: odd" in dead.refusal.message) == ("c", True)


def test_in_virtual_time_a_function_stands_in_its_place() -> None:
    hub = Hub().middleware(ServeMiddleware("app"), name="ask").emitter(StdoutEmitter(), name="out")
    outcome = run(hub, new_event("x"), replace={"ask": lambda event: event.metadata.update(team="network")})
    assert outcome.delivered["out"][0].metadata["team"] == "network"
    with pytest.raises(PlanError, match="no Ray Serve runs in virtual time"):
        run(hub, new_event("x"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"app": ""}, "app=''"),
        ({"app": "a", "deployment": 3}, "deployment=3"),
        ({"app": "a", "timeout": 0}, "timeout=0"),
        ({"app": "a", "max_in_flight": 0}, "max_in_flight=0"),
        ({"app": "a", "request": 7}, "must be a function of the event"),
    ],
)
@pytest.mark.parametrize("kind", [ServeEmitter, ServeMiddleware])
def test_what_cannot_work_is_refused_at_once(kind: type, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        kind(**options)
