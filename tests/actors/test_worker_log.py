"""What Ray says of a pipeline's processes, in the program that has started it."""

from __future__ import annotations

import json

import pytest
from ray._private import worker

from polku.actors.worker_log import keep_errors_off_output, relay_as_json
from polku.log_format import _State

DIED = {"lines": ["A worker died\x1b[0m.\nLook."], "pid": "raylet", "is_err": False}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave Ray as it was."""
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)


def test_its_errors_are_objects_where_the_log_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_State, "is_json", True)
    relay_as_json()
    worker.print_to_stdstream(DIED, ignore_prefix=False)
    out, err = capsys.readouterr()
    told = json.loads(err)
    assert out == ""
    assert (told["level"], told["logger"], told["message"]) == ("warning", "ray", "A worker died\\x1b[0m.\nLook.")
    assert "pid" not in told


def test_what_user_code_prints_is_the_message_of_an_object_and_objects_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as streams

    monkeypatch.setattr(streams, "handlers", [])
    monkeypatch.setattr(_State, "is_json", True)
    relay_as_json()
    ours = '{"time": "now", "message": "dead letter"}'
    streams.emit({"lines": ["a line of \x1b[0muser code", ours], "pid": 7, "actor_name": "stage-1", "is_err": False})
    out, err = capsys.readouterr()
    assert out == ""
    told = [json.loads(line) for line in err.splitlines()]
    assert told[0].items() >= {"message": "a line of \\x1b[0muser code", "level": "info", "pid": 7}.items()
    assert told[0]["actor"] == "stage-1"
    assert told[1] == json.loads(ours)


def test_its_errors_are_not_among_events_on_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # one pipeline after another in one program
        keep_errors_off_output()
    worker.print_to_stdstream(DIED, ignore_prefix=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("A worker died") == 1
