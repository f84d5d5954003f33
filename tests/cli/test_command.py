"""Functions as commands: the kinds of parameters, what the help says of them, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
from click.testing import CliRunner, Result

from polku.cli.command import App, Argument, Exit, Option


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


SEEN: list[Any] = []
app = App("What it is.", version="1.2")
inner = App("More of it.")
app.add_later(inner="tests.cli.test_command:inner", loud="tests.cli.test_command:loud")


@app.command(epilog="The end.")
def paint(
    file: Annotated[Path, Argument(metavar="FILE", help="What to paint.")],
    color: Annotated[Color, Option(help="In which color.")] = Color.RED,
    coats: Annotated[int, Option(min=1, metavar="N", help="How many coats.")] = 2,
    dry: Annotated[bool, Option(help="Let it dry.")] = True,
    everything: Annotated[bool, Option("--all", help="Both sides.")] = False,
    name: Annotated[list[str] | None, Option(help="Whose; repeatable.")] = None,
    speed: Annotated[float | None, Option(envvar="SPEED", help="Meters an hour.")] = None,
) -> None:
    """Paint a file.

    Twice, if need be.
    """
    SEEN.append((file, color, coats, dry, everything, name, speed))


@inner.command("list")
def list_(ids: Annotated[list[int] | None, Argument(metavar="[ID]...", help="Which.")] = None) -> None:
    """List them."""
    SEEN.append(ids)
    raise Exit(1 if ids else 0)


def loud(name: Annotated[str, Argument(help="Whose.")]) -> None:
    """Say it."""
    SEEN.append(name)


def _run(*arguments: str, **environment: str) -> Result:
    SEEN.clear()
    return CliRunner().invoke(app.group, list(arguments), env=environment)


def test_values_come_as_the_function_wants_them() -> None:
    assert _run("paint", "wall").exit_code == 0
    assert [(Path("wall"), Color.RED, 2, True, False, None, None)] == SEEN
    done = _run(
        *("paint", "--color", "blue", "--coats", "3", "--no-dry", "--all", "--name", "a", "--name", "b", "wall"),
        SPEED="2.5",
    )
    assert done.exit_code == 0, done.output
    assert [(Path("wall"), Color.BLUE, 3, False, True, ["a", "b"], 2.5)] == SEEN
    assert isinstance(SEEN[0][1], Color)


def test_arguments_may_be_many_or_none_and_the_status_is_the_commands() -> None:
    assert _run("inner", "list").exit_code == 0
    assert SEEN == [None]
    assert _run("inner", "list", "1", "2").exit_code == 1
    assert SEEN == [[1, 2]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["paint"], "Missing argument 'FILE'"),
        (["paint", "wall", "--coats", "0"], "--coats"),
        (["paint", "wall", "--color", "pink"], "'red', 'blue'"),
        (["paint", "wall", "--thick"], "--thick"),
        (["inner", "list", "one"], "'one' is not a valid integer"),
        (["pain"], "No such command 'pain'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(arguments: list[str], text: str) -> None:
    done = _run(*arguments)
    assert (done.exit_code, SEEN) == (2, [])
    assert text in done.output


def test_the_help_has_every_parameter() -> None:
    text = _run("paint", "--help").output
    words = (
        "FILE",
        "What to paint.",
        "--color",
        "[default: red]",
        "--coats N",
        "--dry / --no-dry",
        "--all",
        "The end.",
    )
    assert [word for word in words if word not in text] == []
    assert "Twice, if need be." in text


def test_the_version_is_shown() -> None:
    assert _run("--version").output == "polku 1.2\n"


def test_a_parameter_without_a_description_is_an_error() -> None:
    def wrong(number: int) -> None: ...

    with pytest.raises(TypeError, match="is not annotated"):
        app.command()(wrong)


def test_commands_of_other_modules_are_listed_and_called() -> None:
    assert "loud   Say it." in _run("--help").output
    assert _run("loud", "x").exit_code == 0
    assert SEEN == ["x"]
    assert _run("louder").exit_code == 2


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        ("run", {"pydantic", "ray", "rich", "grpc", "aiohttp", "polku.emit.s3.emitter"}),
        ("send", {"polku.hub", "polku.plan", "msgspec", "asyncio"}),
        ("health", {"polku.hub", "polku.plan", "google.protobuf", "grpc", "msgspec", "asyncio"}),
        ("tap", {"polku.hub", "polku.plan", "google.protobuf", "grpc", "msgspec", "asyncio"}),
        ("top", {"polku.hub", "polku.plan", "google.protobuf", "grpc", "msgspec", "asyncio"}),
    ],
)
def test_a_command_loads_only_what_it_needs(command: str, unwanted: set[str]) -> None:
    code = """import runpy, sys
sys.argv[1:] = [sys.argv[1], "--help"]
try:
    runpy.run_module("polku", run_name="__main__")
except SystemExit:
    print("loaded", *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert f"polku.cli.{command}" in loaded
    assert loaded & unwanted == set()
