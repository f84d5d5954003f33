"""Which dead letters go where there is no room for all."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from polku.dead_letters.kinds import Cut, PrincipalLetters, describe, next_cut

LEDGER, AUDIT, LOST = (
    PrincipalLetters("ledger", "UNDELIVERED"),
    PrincipalLetters("audit", "UNDELIVERED"),
    PrincipalLetters("", "UNROUTABLE"),
)


def test_nothing_goes_while_there_is_room() -> None:
    assert next_cut({LEDGER: 60, LOST: 40}, [LOST], 100) is None


def test_a_kind_that_grows_pushes_out_its_own() -> None:
    assert next_cut({LEDGER: 60, LOST: 50}, [LOST], 100) == Cut(LOST, 10)
    assert next_cut({LEDGER: 96, LOST: 20}, [LOST], 100) == Cut(LOST, 14)  # down to its sixteenth


def test_a_small_kind_has_its_room_from_the_largest_one() -> None:
    assert next_cut({LEDGER: 60, AUDIT: 39, LOST: 3}, [LOST], 100) == Cut(LEDGER, 2)
    assert next_cut({LEDGER: 50, AUDIT: 49, LOST: 6}, [LOST], 100) == Cut(LEDGER, 1)  # then both lose in turn


@given(
    st.dictionaries(st.sampled_from([LEDGER, AUDIT, LOST]), st.integers(1, 300), min_size=1),
    st.sets(st.sampled_from([LEDGER, AUDIT, LOST])),
    st.integers(1, 200),
)
def test_cuts_end_within_the_room_and_never_cost_a_kind_more_than_it_has(
    sizes: dict[PrincipalLetters, int], grown: set[PrincipalLetters], room: int
) -> None:
    total = sum(sizes.values())
    gone: Counter[PrincipalLetters] = Counter()
    while (cut := next_cut(sizes, grown, room)) is not None:
        assert 1 <= cut.amount <= sizes[cut.part]
        sizes[cut.part] -= cut.amount
        gone[cut.part] += cut.amount
    assert gone.total() == max(0, total - room)


def test_counts_are_described_the_largest_first() -> None:
    assert describe({LEDGER.kind: 2, LOST.kind: 30}) == "- UNROUTABLE 30, ledger UNDELIVERED 2"
