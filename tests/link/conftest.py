"""What several tests of links run under."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polku.link.link import Link
from polku.link.receiver import LinkReceiver


@pytest.fixture(scope="module", params=[False, True], ids=["in a task", "at once"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let links and inlets begin their receiver's work in a task, and then at once."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Link, LinkReceiver):
            defaults = kind.__init__.__kwdefaults__
            assert defaults is not None
            patch.setitem(defaults, "eager", request.param)
        yield
