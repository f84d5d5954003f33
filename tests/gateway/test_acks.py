"""The Acks of requests whose events went on as one batch are those that each would have had alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polku.batch.batch import Batch
from polku.batch.receipt import Counts, Receipt, Refusal
from polku.codes import Code
from polku.gateway.acks import answer_events, answer_together
from polku.gateway.admission import Admission

CODES = st.sampled_from([Code.BUFFER_FULL, Code.MALFORMED])
FATES = st.sampled_from(["filtered", "deduplicated", "forwarded"])


@st.composite
def together(draw: st.DrawFn) -> tuple[list[Admission], Receipt]:
    """Some requests of a few events each, and a receipt in which something may be wrong with some."""
    sizes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    admissions = []
    for number, size in enumerate(sizes):
        ids = [f"{number}.{place}" for place in range(size)]
        refused = [Refusal("", draw(CODES), "at the door")] if draw(st.booleans()) and size < 3 else []
        admissions.append(Admission(Batch.from_events([]), ids, refused))
    places = range(sum(sizes))
    refused_places = sorted(draw(st.sets(st.sampled_from(places)))) if places else []
    fated = sorted(draw(st.sets(st.sampled_from(places)))) if places else []
    receipt = Receipt(
        refused=tuple(Refusal(f"other-{place}", draw(CODES), "no room", place) for place in refused_places),
        counts=Counts(received=100, forwarded=90),
        buffer_size=7,
        buffer_capacity=1_000,
        fates=tuple((place, draw(FATES), draw(st.sampled_from([1, -1]))) for place in fated),
    )
    return admissions, receipt


@given(together())
def test_acks_of_one_batch_are_those_of_requests_alone(case: tuple[list[Admission], Receipt]) -> None:
    admissions, receipt = case
    expected, start = [], 0
    for admission in admissions:
        part = receipt.piece(start, len(admission.ids))
        expected.append(answer_events(admission, part, with_stats=True))
        start += len(admission.ids)
    assert answer_together(admissions, receipt) == expected
