"""The page of `polku bench --html`: what is on it, and that nothing of it acts, or is loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from polku.bench import EmitterResult, PartResult, Result
from polku.bench.report import write_report
from tests.support.browser import Browser, Page, find_browser

HOSTILE = "<script>alert(1)</script>\"'&"
MACHINE = {
    "cores": 2,
    "processor": HOSTILE,
    "memory_gb": 24.7,
    "system": "Linux",
    "python": "3.11",
    "versions": {},
    "time": "now",
    "load_average": 0.1,
}


def a_result(subject: str, faster: int = 1) -> Result:
    """Return what a measurement of two seconds found."""
    return Result(
        subject=subject,
        sent=4_000 * faster,
        acked=4_000 * faster,
        refused=0,
        refusals={},
        failed=0,
        unanswered=0,
        delivered=4_000 * faster,
        left_out={},
        lost=0,
        duplicates=0,
        reordered=0,
        corrupted=0,
        foreign=0,
        acked_per_s=2_000.0 * faster,
        delivered_per_s=2_000.0 * faster,
        accepted_ms={"p50": 1.0},
        end_to_end_ms={"p50": 9.0},
        cpu_us_per_event=3.0,
        memory_mb=40.0,
        start_seconds=0.1,
        parts={HOSTILE: PartResult(3.0 * faster, 40.0)},
        emitters={"sink": EmitterResult(4_000, 2_000.0, 0, 0)},
        timeline=[(0.0, 0, 0), (1.0, 2_000 * faster, 1_000 * faster), (2.0, 4_000 * faster, 4_000 * faster)],
        distributions={"accepted": [(1.0, 3_000), (2.0, 1_000)], "end_to_end": [(9.0, 4_000)]},
    )


class Tags(HTMLParser):
    """Keep the tags of a page, and what is open at its end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onerror", "onload"}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def heights(page: str) -> list[list[float]]:
    """Return the heights at which the lines of events acknowledged stand, one list for each run."""
    lines = re.findall(r'class="in" d="M([^"]*)"', page)
    return [[float(point.split()[1]) for point in line.split("L")] for line in lines]


def test_two_runs_stand_side_by_side_on_one_scale() -> None:
    results = [[a_result("one")], [a_result("two", faster=2)]]
    page = write_report("polku bench", MACHINE, results, [["acked/s", "2,000", "4,000"]], "one / two: 0.5")
    assert re.findall(r"<h2>([^<]*)</h2>", page) == ["one", "two"]
    slow, fast = heights(page)
    assert len(set(slow)) == len(set(fast)) == 1  # both run evenly
    zero = 190 - 26
    assert round((zero - fast[0]) / (zero - slow[0]), 2) == 2.0
    assert "75.0% of the events" in page
    assert "100.0% of the events" in page
    assert "3.00 µs" in page
    assert "6.00 µs" in page


def test_a_moment_right_behind_another_makes_no_peak() -> None:
    uneven = [(0.0, 0, 0), (1.0, 1_000, 1_000), (2.0, 2_000, 2_000), (2.01, 2_010, 2_010), (2.012, 2_030, 2_030)]
    result = replace(a_result("one"), timeline=uneven)
    (line,) = heights(write_report("polku bench", MACHINE, [[result]], [["acked/s", "1,000"]], ""))
    assert len(line) == 2
    assert abs(line[0] - line[1]) < 5


def test_what_a_file_is_called_is_text_and_nothing_is_loaded() -> None:
    page = write_report(HOSTILE, MACHINE, [[a_result(HOSTILE)]], [[HOSTILE, HOSTILE]], HOSTILE)
    tags = Tags(page)
    assert tags.open == []
    assert not tags.found & {"script", "img", "link", "iframe", "a"}
    assert "default-src 'none'" in page


def test_a_run_in_which_nothing_came_is_shown_too() -> None:
    nothing = replace(
        a_result("none"),
        acked=0,
        delivered=0,
        timeline=(),
        distributions={},
        parts={},
        accepted_ms={},
        end_to_end_ms={},
    )
    Tags(write_report("polku bench", MACHINE, [[nothing]], [], ""))


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
@pytest.mark.parametrize("runs", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_words_of_its_pictures_can_be_read_on_a_screen_and_on_a_phone(
    runs: int, browser: Browser, tmp_path: Path
) -> None:
    results = [[a_result(str(number))] for number in range(runs)]
    file = tmp_path / "report.html"
    file.write_text(write_report("polku bench", MACHINE, results, [["acked/s"] * (runs + 1)], "one round"))
    heights = "[...document.querySelectorAll('svg text')].map(one => one.getBoundingClientRect().height)"
    for width in (1280, 390):
        page = Page(browser, width)
        page.open(file.as_uri())
        shown = page.run(heights)
        assert shown
        assert 10 < min(shown) <= max(shown) < 20
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.close()
