"""The faults that are brought back stand where today's code has them."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import journals, lanes, nodes  # noqa: F401  (they register themselves)
from tests.simulation.mutants.faults import MUTANTS


@pytest.mark.parametrize("number", MUTANTS)
def test_a_fault_can_be_brought_back(number: str) -> None:
    with MUTANTS[number][1]():
        pass
    with MUTANTS[number][1]():  # and it was taken away again
        pass
