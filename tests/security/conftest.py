"""A certificate authority for the tests of this folder."""

from __future__ import annotations

from tests.support.authorities import authority as authority
from tests.support.authorities import server as server
