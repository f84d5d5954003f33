"""Components have the same digest where they do the same, and another one where they do not."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polku import Deduplicator, Filter, Transform, WebhookEmitter
from polku.change.content import content_digest
from polku.event.v1.event_pb2 import Event


def load(source: str, name: str = "their_pipeline") -> types.ModuleType:
    """Return a module as a file that is run anew makes it."""
    module = types.ModuleType(name)
    module.__file__ = f"/somewhere/{name}.py"
    exec(compile(source, f"{name}.py", "exec"), vars(module))
    return module


ONE = """
LIMIT = 3
def helper(event):
    return len(event.id) > LIMIT
def step(event):
    return helper(event)
class Step:
    bound = 5
    def __init__(self, size=1):
        self.size = size
    def process(self, events):
        return [event for event in events if helper(event)][: self.bound]
"""


def digests(source: str) -> tuple[str, str, str]:
    module = load(source)
    return content_digest(module.step), content_digest(module.Step()), content_digest(Filter(module.step))


def test_a_file_that_is_run_again_has_the_same_components() -> None:
    assert digests(ONE) == digests(ONE)


def test_where_code_stands_and_its_comments_are_nothing() -> None:
    assert digests(ONE) == digests(
        "# a comment\n\n" + ONE.replace("    return helper", "    # why\n\n    return helper")
    )


@pytest.mark.parametrize(
    "change",
    [("LIMIT = 3", "LIMIT = 4"), ("len(event.id)", "len(event.source)"), ("> LIMIT", ">= LIMIT")],
)
def test_what_functions_name_counts_wherever_it_stands(change: tuple[str, str]) -> None:
    before, after = digests(ONE), digests(ONE.replace(*change))
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("change", [("bound = 5", "bound = 6"), ("size=1", "size=2")])
def test_attributes_of_a_class_and_of_its_object_count(change: tuple[str, str]) -> None:
    before, after = digests(ONE), digests(ONE.replace(*change))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_module_of_theirs_counts_by_its_code_and_an_installed_one_by_its_name() -> None:
    def using(helper: types.ModuleType) -> str:
        module = load("def step(event):\n    return helper.work(event)\n")
        module.helper = helper  # type: ignore[attr-defined]
        return content_digest(module.step)

    mine = [load(f"def work(event):\n    return {number}\n", "helper") for number in (1, 1, 2)]
    assert using(mine[0]) == using(mine[1]) != using(mine[2])
    for module in mine:
        module.__file__ = "/usr/lib/python3/site-packages/helper.py"
    assert using(mine[0]) == using(mine[2])


def closing_over(value: object) -> Callable[[Event], object]:
    return lambda event: value


def test_what_a_function_closes_over_counts() -> None:
    assert content_digest(closing_over([1, {"a": 2}])) == content_digest(closing_over([1, {"a": 2}]))
    assert content_digest(closing_over([1, {"a": 2}])) != content_digest(closing_over([1, {"a": 3}]))


def test_configurations_count_by_their_options() -> None:
    assert (
        content_digest(Deduplicator(ttl=3))
        == content_digest(Deduplicator(ttl=3))
        != content_digest(Deduplicator(ttl=4))
    )
    assert content_digest(WebhookEmitter("http://a/")) == content_digest(WebhookEmitter("http://a/"))
    assert content_digest(WebhookEmitter("http://a/")) != content_digest(WebhookEmitter("http://b/"))
    assert content_digest(Event(id="a")) == content_digest(Event(id="a")) != content_digest(Event(id="b"))


def test_what_cannot_be_described_is_itself() -> None:
    lock = threading.Lock()
    assert (
        content_digest(closing_over(lock))
        == content_digest(closing_over(lock))
        != content_digest(closing_over(threading.Lock()))
    )


def test_a_component_may_say_what_it_is_made_of() -> None:
    class Model:
        def __init__(self, key: str) -> None:
            self.content_key = key
            self.weights = threading.Lock()

    assert content_digest(closing_over(Model("1"))) == content_digest(closing_over(Model("1")))
    assert content_digest(closing_over(Model("1"))) != content_digest(closing_over(Model("2")))


def test_an_object_that_was_met_before_is_what_it_was_then() -> None:
    seen: list[int] = []
    memory: dict[int, tuple[object, str]] = {}
    before = content_digest(closing_over(seen), None, memory)
    seen.append(1)
    assert content_digest(closing_over(seen)) != before
    assert content_digest(closing_over(seen), memory) == before


def test_functions_that_call_each_other_have_an_end() -> None:
    source = "def step(event):\n    return other(event)\ndef other(event):\n    return step(event) + 1\n"
    assert content_digest(load(source).step) == content_digest(load(source).step)
    assert content_digest(load(source).step) != content_digest(load(source.replace("+ 1", "+ 2")).step)


def test_what_is_too_deep_or_too_large_is_itself() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    assert content_digest(deep) == content_digest(deep)
    assert content_digest([list(range(20_000))]) != content_digest([list(range(20_000))])


def test_another_process_has_the_same_digests(tmp_path: Path) -> None:
    code = f"import polku; from polku.change.content import content_digest\nexec({ONE!r})\n"
    code += "print(content_digest(polku.Transform(step)), content_digest({'a', 'b', 'c'}))"
    (tmp_path / "code.py").write_text(code)
    said = {subprocess.run([sys.executable, tmp_path / "code.py"], capture_output=True, text=True).stdout for _ in "12"}
    assert len(said) == 1
    assert len(said.pop().split()) == 2


def test_builtin_middleware_that_differs_by_its_function_alone_differs() -> None:
    assert content_digest(Transform(load(ONE).step)) != content_digest(Transform(load(ONE).helper))
