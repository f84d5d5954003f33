"""A Ray that is started for a pipeline asks for a token: whoever reaches its ports could run programs otherwise."""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping
from typing import Any

import ray

from polku.errors import UnavailableError

MODE = "RAY_AUTH_MODE"
_SETUP = "ray._private.authentication.authentication_token_setup"
_FIRST = "2.52"


def ask_for_token(environment: MutableMapping[str, str]) -> None:
    """Have the next Ray of this process ask for a token, unless `RAY_AUTH_MODE` says otherwise.

    Raises `UnavailableError` where this Ray knows of no tokens.
    """
    if environment.get(MODE):
        return
    try:
        setup = importlib.import_module(_SETUP)
    except ImportError:
        raise UnavailableError(
            f"Ray {ray.__version__} asks nobody for a token: who reaches its ports can run programs; install Ray "
            f"{_FIRST} or later, or set {MODE}=disabled to run it open to whoever reaches this machine"
        ) from None
    if hasattr(setup, "enable_token_auth_by_default"):
        return  # it does so by itself
    from ray import _raylet

    raylet: Any = _raylet
    environment[MODE] = "token"
    raylet.Config.initialize("")  # what it has read from the environment, it reads again
