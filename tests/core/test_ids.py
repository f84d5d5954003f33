"""New ids: ULIDs that rise, in threads and forked processes too."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from polku import ids
from polku.ids import IdGenerator, new_id, new_ids, ulid_text
from tests.support.pace import check_cost

MILLISECOND_NS = 1_000_000


@given(st.integers(0, 2**128 - 1))
def test_a_number_is_written_as_ulids_are(number: int) -> None:
    assert ulid_text(number) == str(ULID(number.to_bytes(16, "big")))


def test_an_id_has_the_time_of_its_making() -> None:
    before = time.time_ns() // MILLISECOND_NS
    made = ULID.from_str(new_id())
    assert before <= made.milliseconds <= time.time_ns() // MILLISECOND_NS


def test_ids_of_one_millisecond_rise_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_123_456_789)
    generator = IdGenerator()
    made = [generator.make(), *generator.make_many(5_000), *generator.make_many(0), generator.make()]
    numbers = [int.from_bytes(ULID.from_str(one).bytes, "big") for one in made]
    assert numbers == list(range(numbers[0], numbers[0] + 5_002))
    assert made == sorted(made)


@pytest.mark.parametrize("chance", [b"\0" * 10, b"\xff" * 10, b"\0" * 7 + b"\x0f\xff\xff"])
def test_a_millisecond_has_room_for_many(monkeypatch: pytest.MonkeyPatch, chance: bytes) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_123_456_789)
    monkeypatch.setattr(os, "urandom", lambda count: chance * (count // 10))
    made = IdGenerator().make_many(3_000)
    assert {ULID.from_str(one).milliseconds for one in made} == {1_800_000_000_123}
    assert made == sorted(set(made))


def test_a_clock_that_is_set_back_makes_no_id_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_800_000_000_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: now[0])
    generator = IdGenerator()
    made = generator.make_many(100)
    now[0] -= MILLISECOND_NS
    made += generator.make_many(100)
    now[0] += MILLISECOND_NS
    made += generator.make_many(100)
    assert len(set(made)) == 300


def test_threads_make_no_id_twice() -> None:
    def some(number: int) -> list[str]:
        return [one for _ in range(200) for one in (new_id(), *new_ids(3))]

    with ThreadPoolExecutor(8) as pool:
        made = [one for part in pool.map(some, range(8)) for one in part]
    assert len(set(made)) == len(made) == 8 * 800


def test_a_forked_process_makes_ids_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_123_456_789)
    monkeypatch.setattr(ids, "_generator", IdGenerator())
    new_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(new_ids(100)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        theirs = file.read()
    os.waitpid(child, 0)
    assert len(theirs) == 2_600
    assert not {theirs[at : at + 26] for at in range(0, 2_600, 26)} & set(new_ids(100))


def test_an_id_is_cheap() -> None:
    check_cost(lambda: [new_id() for _ in range(1_000)], 1_000 * 2.6e-6)
    check_cost(lambda: new_ids(1_000), 1_000 * 0.3e-6)
