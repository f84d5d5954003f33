"""Fixtures of a certificate authority and of a server's certificate by it, one for each file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.authority import Authority, Pair


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("authority")
    return Authority(folder)


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.issue()
