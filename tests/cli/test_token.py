"""`polku token new`: the token is shown or saved once, and the lines for the file do not have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from polku.cli.app import app
from polku.errors import SettingError
from polku.security.token_file import parse


def test_the_lines_are_for_the_file_and_the_token_for_the_client() -> None:
    result = CliRunner().invoke(
        app.group, ["token", "new", "agents", "--source", "a-*", "--cluster", "b", "--days", "0"]
    )
    token = result.stderr.splitlines()[-1]
    assert token not in result.stdout
    found = parse(result.stdout).by_token(token)
    assert found
    assert (found[0].not_after, found[1].rights.sources, found[1].rights.clusters) == (None, ("a-*",), ("b",))


def test_a_token_is_saved_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "agents.token"
    result = CliRunner().invoke(app.group, ["token", "new", "agents", "--save", str(path)])
    token = path.read_text().strip()
    assert (path.stat().st_mode & 0o777, token in result.output) == (0o600, False)
    assert parse(result.stdout).by_token(token)
    again = CliRunner().invoke(app.group, ["token", "new", "agents", "--save", str(path)])
    assert "is there already; name a new file" in str(again.exception)
    assert path.read_text().strip() == token


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["a b"], "cannot be a principal's name"),
        (["a", "--days", "-1"], "--days=-1: write a number of days"),
        (["a", "--streams", "-1"], "streams=-1 must be a whole number"),
        (["a", "--save", "/none/token"], "--save='/none/token': cannot be written"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], fault: str) -> None:
    result = CliRunner().invoke(app.group, ["token", "new", *arguments])
    assert isinstance(result.exception, SettingError)
    assert fault in str(result.exception)
    assert result.stdout == ""
