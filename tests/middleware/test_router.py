from collections.abc import Callable

import pytest

from polku.errors import PlanError
from polku.event.v1.event_pb2 import Event
from polku.middleware import Router
from polku.middleware.adapt import as_step
from tests.middleware.harness import events, ids, refused, run, work
from tests.support.clock import FakeClock


async def routes(router: Router, event_type: str, source: str = "agent", route_to: tuple[str, ...] = ()) -> list[str]:
    batch = events("a", event_type=event_type, source=source)
    batch[0].route_to.extend(route_to)
    outcome = await run(router, batch)
    return list(outcome.events[0].route_to)


async def test_the_first_rule_that_matches_wins() -> None:
    router = (
        Router()
        .when(lambda event: event.event_type == "audit.login", to=["x", "y"])
        .type_prefix("audit.", to="archive")
        .source("agent", to="z")
        .default("rest")
    )
    assert await routes(router, "audit.login") == ["x", "y"]
    assert await routes(router, "audit.other") == ["archive"]
    assert await routes(router, "user.login") == ["z"]
    assert await routes(router, "user.login", source="other") == ["rest"]


async def test_a_match_replaces_the_routes_and_no_match_leaves_them() -> None:
    router = Router().type_prefix("audit.", to="archive")
    assert await routes(router, "audit.x", route_to=("old",)) == ["archive"]
    assert await routes(router, "user.x", route_to=("old",)) == ["old"]
    assert await routes(router, "user.x") == []


async def test_the_same_list_comes_back() -> None:
    batch = events("a", "b")
    assert (await work(as_step(Router().default("x"), FakeClock()), batch)).events is batch


async def test_a_predicate_that_raises_costs_only_its_event() -> None:
    router = Router().when(lambda event: 1 // int(event.id), to="x")
    outcome = await run(router, events("1", "0", "2"))
    assert ids(outcome) == ["1", "2"]
    assert refused(outcome)["0"].startswith("MIDDLEWARE_ERROR: Router: ZeroDivisionError")


def test_a_router_is_never_changed_and_names_its_targets_once() -> None:
    base = Router().source("a", to=["x", "y"])
    more = base.type_prefix("b", to="x").default("z")
    assert base.targets == ("x", "y")
    assert more.targets == ("x", "y", "z")


def test_it_shows_as_the_calls_that_made_it() -> None:
    def is_big(event: Event) -> bool:
        return True

    router = Router().when(is_big, to="a").type_prefix("x.", to=["a", "b"]).source("s", to="c").default("d")
    assert repr(router) == (
        "Router().when(is_big, to='a').type_prefix('x.', to=['a', 'b']).source('s', to='c').default('d')"
    )


async def _later(event: Event) -> bool:
    return True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda: Router().default(""), "Router(to=''): must be the name of an emitter"),
        (lambda: Router().default([]), "Router(to=[]): must be the name of an emitter"),
        (lambda: Router().source("a", to=5), "Router(to=5): must be the name"),  # type: ignore[arg-type]
        (lambda: Router().type_prefix("", to="x"), "Router.type_prefix(prefix=''): must be a string"),
        (
            lambda: Router().when("user.", to="x"),  # type: ignore[arg-type]
            "Router.when(predicate='user.'): must be a function",
        ),
        (lambda: Router().when(_later, to="x"), "must not be async"),
    ],
)
def test_wrong_arguments_are_named_with_value_and_fix(arguments: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        arguments()
    assert message in str(caught.value)
