"""`polku test`: cases in files, and what is said where one fails."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.server import polku_here

PIPELINE = """
from polku import Filter, Hub, Router, StdoutEmitter, Transform


def classify(event):
    event.metadata["urgent"] = "yes" if b"down" in event.payload else "no"
    if event.event_type == "broken":
        raise ValueError("not to be classified")


hub = (
    Hub()
    .middleware(Filter(lambda event: event.event_type != "noise"), name="no noise")
    .middleware(Transform(classify))
    .middleware(Router().type_prefix("order", to="audit").default("partner"))
    .emitter(StdoutEmitter(), name="audit")
    .emitter(StdoutEmitter(), name="partner")
)
"""
ORDER = {"event_type": "order", "text": "mail is down"}


def polku_test(folder: Path, *cases: object, options: tuple[str, ...] = ()) -> tuple[int, str]:
    (folder / "pipeline.py").write_text(PIPELINE)
    (folder / "some.ndjson").write_text("// cases\n" + "\n".join(map(json.dumps, cases)))
    done = polku_here("test", str(folder), *options)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "case",
    [
        {"in": ORDER, "to": ["audit"], "metadata": {"urgent": "yes", "other": None}, "text": "mail is down"},
        {"in": {"event_type": "other", "json": {"a": 1}}, "to": ["partner"], "json": {"a": 1}, "severity": None},
        {"in": {"event_type": "noise"}, "dropped": "no noise"},
        {"in": {"event_type": "noise"}, "dropped": True, "to": []},
        {"in": {"event_type": "broken"}, "dead": "ValueError"},
        {"in": {"event_type": "broken"}, "dead": True, "refused": "MIDDLEWARE_ERROR"},
        {"in": {"raw": '{"event_type": "order"}\nnonsense', "source": "ndjson"}, "to": ["audit"], "refused": "INVALID"},
        {"in": [ORDER, {"pause": 60}, {"event_type": "x"}], "out": [{"to": ["audit"]}, {"event_type": "x"}]},
    ],
)
def test_a_case_passes(case: object, tmp_path: Path) -> None:
    assert polku_test(tmp_path, case) == (0, f"ok    {tmp_path}/some.ndjson:2  line 2\n1 passed\n")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"in": ORDER, "to": ["audit", "partner"]}, '  to\n    expected  ["audit","partner"]\n    got       ["audit"]'),
        ({"in": ORDER, "metadata": {"urgent": "no"}}, '  metadata.urgent\n    expected  "no"\n    got       "yes"'),
        ({"in": ORDER, "metadata": {"x": "1"}}, '  metadata.x\n    expected  "1"\n    got       nothing'),
        ({"in": {"event_type": "noise"}, "to": ["audit"]}, "  delivered events\n    expected  1\n    got       0"),
        ({"in": ORDER, "dropped": True}, "  delivered events\n    expected  0\n    got       1 (case-1)"),
        ({"in": {"event_type": "noise"}}, "  dropped\n    expected  nothing\n    got       no noise (filtered)"),
        (
            {"in": {"event_type": "broken"}, "dead": "KeyError"},
            "got       MIDDLEWARE_ERROR: Transform(classify)",
        ),
        ({"in": [ORDER, ORDER], "out": [{"to": ["audit"]}, {"source": "y"}]}, "  event 2: source"),
    ],
)
def test_a_difference_can_be_read(case: object, said: str, tmp_path: Path) -> None:
    status, shown = polku_test(tmp_path, case)
    assert (status, said in shown) == (1, True), shown
    assert "  what happened\n    case-1: " in shown
    assert shown.endswith("0 passed, 1 failed\n")


def test_results_are_written_for_continuous_integration(tmp_path: Path) -> None:
    file = tmp_path / "results.xml"
    cases = [{"name": "good", "in": ORDER, "to": ["audit"]}, {"name": "<bad>", "in": ORDER, "to": []}]
    assert polku_test(tmp_path, *cases, options=("--junit", str(file)))[0] == 1
    root = ElementTree.parse(file).getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    good, bad = root.iter("testcase")
    assert (good.get("name"), good.find("failure"), bad.get("name")) == ("good", None, "<bad>")
    failure = bad.find("failure")
    assert failure is not None
    assert "expected  0" in (failure.text or "")


def test_cases_are_chosen_by_name(tmp_path: Path) -> None:
    cases = [{"name": "good", "in": ORDER}, {"name": "bad", "in": ORDER, "to": []}]
    assert polku_test(tmp_path, *cases, options=("-q", "--only", "good")) == (0, "1 passed\n")


def test_each_file_has_its_own_pipeline(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "orders.py").write_text(PIPELINE.replace('to="audit"', 'to="partner"'))
    (tmp_path / "orders.ndjson").write_text(json.dumps({"in": ORDER, "to": ["partner"]}))
    (tmp_path / "cases" / "orders.cases.ndjson").write_text(json.dumps({"in": ORDER, "to": ["partner"]}))
    assert polku_test(tmp_path, {"in": ORDER, "to": ["audit"]}, options=("-q",)) == (0, "3 passed\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "some.ndjson:1: "),
        ("[]", "some.ndjson:1: is no object; a case is {"),
        ("{}", "has no 'in'"),
        ('{"in": {}, "too": []}', "'too' is no part of a case"),
        ('{"in": {"type": "x"}}', "did you mean 'event_type'?"),
        ('{"in": {}, "to": "audit"}', "'to' must be a list of emitters, not 'audit'"),
        ('{"in": {"raw": "x", "sauce": "y"}}', "'sauce': raw bytes have"),
        ('{"in": {}, "out": 3}', "'out' must be a list"),
        ('{"in": {}, "dead": 3}', "'dead' must be true, or a part of what is said, not 3"),
    ],
)
def test_a_case_that_cannot_be_read_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    (tmp_path / "some.ndjson").write_text(text)
    done = polku_here("test", str(tmp_path))
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "there is no such folder or file" in polku_here("test", str(tmp_path / "nothing")).stderr
    assert "there is no case (*.ndjson)" in polku_here("test", str(tmp_path)).stderr
    (tmp_path / "lost.ndjson").write_text("{}")
    assert "has no pipeline: there is neither" in polku_here("test", str(tmp_path)).stderr
