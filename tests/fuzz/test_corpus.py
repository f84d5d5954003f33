"""The corpus of the fuzzer holds, and so does what is near to it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz import http2_client
from tests.fuzz.__main__ import CORPUS
from tests.fuzz.http2 import storm
from tests.fuzz.targets import TARGETS

_CASES = sorted(file for folder in CORPUS.iterdir() for file in folder.iterdir())
_MUTATIONS = 60


def test_every_target_has_a_corpus() -> None:
    assert {file.parent.name for file in _CASES} == set(TARGETS)


@pytest.mark.parametrize("file", _CASES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_laws_hold_for_the_corpus_and_near_to_it(file: Path) -> None:
    target, data = TARGETS[file.parent.name], file.read_bytes()
    target(data)
    random = Random(file.name)
    for _ in range(_MUTATIONS):
        target(_mutated(data, random))


def _mutated(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(4):
            case 0:
                changed[at:at] = random.randbytes(random.randint(1, 4))
            case 1:
                del changed[at : at + random.randint(1, 8)]
            case 2:
                changed[at : at + 1] = random.randbytes(1)
            case _:
                end = at + random.randint(1, 16)
                changed[end:end] = changed[at:end]
    return bytes(changed)


def test_connections_bear_frames_that_are_nearly_right() -> None:
    assert storm(10_000, seed=0, seconds=20) >= 10_000


def test_the_client_bears_servers_that_are_nearly_right() -> None:
    assert http2_client.storm(10_000, seed=0, seconds=20) >= 10_000
