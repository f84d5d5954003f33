"""Whether a Ray that is started asks for a token, by what its version can."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from ray import _raylet

from polku.actors.ray_token import MODE, ask_for_token
from polku.errors import UnavailableError

SETUP = "ray._private.authentication.authentication_token_setup"


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count how often Ray reads its environment again, without having it do so."""
    read: list[str] = []

    class Config:
        initialize = staticmethod(read.append)

    monkeypatch.setattr(_raylet, "Config", Config)
    return read


def test_a_ray_that_asks_by_itself_is_left_to_it(read_again: list[str]) -> None:
    environment: dict[str, str] = {}
    ask_for_token(environment)
    assert (environment, read_again) == ({}, [])


def test_one_that_can_is_told_to(monkeypatch: pytest.MonkeyPatch, read_again: list[str]) -> None:
    monkeypatch.setitem(sys.modules, SETUP, ModuleType(SETUP))  # as in Ray 2.52 to 2.59
    environment: dict[str, str] = {}
    ask_for_token(environment)
    assert (environment, read_again) == ({MODE: "token"}, [""])


def test_one_that_cannot_is_not_started_unless_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SETUP, None)
    with pytest.raises(UnavailableError, match=r"asks nobody for a token.*RAY_AUTH_MODE=disabled"):
        ask_for_token({})
    environment = {MODE: "disabled"}
    ask_for_token(environment)
    assert environment == {MODE: "disabled"}
