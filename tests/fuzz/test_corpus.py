"""The corpus of the fuzzer holds, and so does what is near to it: the same inputs at each run, and new ones."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import http2_client, mutations
from tests.fuzz.http2 import storm
from tests.fuzz.mutations import CORPUS, FindingError, hunt, inputs, main, mutated
from tests.fuzz.targets import TARGETS

_CASES = sorted(file for folder in CORPUS.iterdir() for file in folder.iterdir())
_MUTATIONS = 60
_SECONDS = 4.0  # of new inputs, for all targets together


def test_every_target_has_a_corpus() -> None:
    assert {file.parent.name for file in _CASES} == set(TARGETS)


@pytest.mark.parametrize("file", _CASES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_laws_hold_for_the_corpus_and_near_to_it(file: Path) -> None:
    target, data = TARGETS[file.parent.name], file.read_bytes()
    target(data)
    random = Random(file.name)
    for _ in range(_MUTATIONS):
        target(mutated(data, random))


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_laws_hold_for_inputs_that_nobody_has_tried(name: str) -> None:
    assert hunt(name, TARGETS[name], inputs(name), _SECONDS / len(TARGETS), time.time_ns()) > 0


def test_a_finding_is_written_down_and_can_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutations, "FINDINGS", tmp_path)

    def odd(data: bytes) -> None:
        assert len(data) < 6, "six bytes"

    found = []
    for _ in range(2):
        with pytest.raises(FindingError, match=r"(?s)odd: .*six bytes.*; the input is in .*odd-7, made with"):
            hunt("odd", odd, [b"ab", b"cde"], 30.0, 7)
        found.append((tmp_path / "odd-7").read_bytes())
    assert found[0] == found[1]
    assert len(found[0]) >= 6
    monkeypatch.setattr(mutations, "_SECONDS", 0.0)
    monkeypatch.setattr(mutations, "pace", lambda: 1.0)
    with pytest.raises(FindingError, match="slow: it takes"):
        hunt("slow", lambda data: None, [b"ab"], 30.0, 7)


def test_the_command_tries_the_targets_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    main(["json", "ack", "--seconds", "0.2", "--seed", "1"])
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["json", "ack"]


def test_connections_bear_frames_that_are_nearly_right() -> None:
    assert storm(10_000, seed=0, seconds=20) >= 10_000


def test_the_client_bears_servers_that_are_nearly_right() -> None:
    assert http2_client.storm(10_000, seed=0, seconds=20) >= 10_000
