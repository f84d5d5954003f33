"""Certificates that several tests of the ports use: made once for a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.authority import Authority, Pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Pair:
    return Authority(folder, "other").issue("client")
