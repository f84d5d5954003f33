"""What the live page shows can be read: contrast, texts that are not covered, numbers with their units."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec.structs import replace

from polku.monitoring.statistics import PipelineStatistics
from tests.monitoring.test_page import node, unhealthy
from tests.monitoring.trees import CAPACITY, Shown, admin_address, some_tree
from tests.support.browser import Browser, Page, find_browser

pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed"),
    pytest.mark.usefixtures("fast_page"),
]

CONTRAST = 4.5  # of text, after WCAG 2.2, level AA

FAINT = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = css => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((value, at) => at < 3 ? value : value / 255); };
  const over = (front, back) => front.map((value, at) => at < 3 ? value * front[3] + back[at] * (1 - front[3]) : 1);
  const behind = node => { const own = node ? rgba(getComputedStyle(node).backgroundColor) : [255, 255, 255, 1];
    return own[3] === 1 ? own : over(own, behind(node.parentElement)); };
  const light = color => color.slice(0, 3).map(value => value / 255)
    .map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [.2126, .7152, .0722][at], 0);
  const ratio = (css, node) => { const back = behind(node), [a, b] = [light(over(rgba(css), back)), light(back)];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
  const found = {}, walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const note = (text, value) => { if (value < LEAST) found[text] = value; };
  for (let text; text = walk.nextNode();) {
    const node = text.parentElement, box = node.getClientRects().length;
    if (!box || !text.data.trim() || node.tagName === 'SCRIPT') continue;
    note(text.data, ratio(getComputedStyle(node).color, node));
  }
  for (const input of document.querySelectorAll('input')) if (input.getClientRects().length)
    note(input.placeholder, ratio(getComputedStyle(input, '::placeholder').color, input));
  return found;
})()""".replace("LEAST", str(CONTRAST))

COVERED = """(() => {
  const of = node => node.getBoundingClientRect(), found = [];
  const straight = one => /^M[\\d.]+ [\\d.]+H/.test(one.getAttribute('d'));
  const paths = [...document.querySelectorAll('#edges path')].filter(straight);
  for (const label of document.querySelectorAll('.label > *')) {
    const words = document.createRange();
    words.selectNodeContents(label);
    for (const text of words.getClientRects()) for (const path of paths) {
      const edge = of(path), half = path.getAttribute('stroke-width') / 2, middle = (text.top + text.bottom) / 2;
      const inside = text.left < edge.right && edge.left < text.right, ink = 4.5;  // half of a digit of 11 px
      if (inside && middle - ink < edge.bottom + half && edge.top - half < middle + ink) found.push(label.textContent);
    }
  }
  return found;
})()"""


def trouble(events: int = 0) -> PipelineStatistics:
    """Return a pipeline with what each colour is for: a full share, one that is half full, restarts, dead letters."""
    bad = unhealthy("refused", "its share of the buffer is full", "nc -vz p 1")
    waiting = {"partner": CAPACITY, "archive": CAPACITY * 3 // 4}
    parts = {"emitter:partner": bad}
    emitters = ("audit", "partner", "archive")
    return some_tree(emitters=emitters, events=events, waiting=waiting, unhealthy=parts, errors=["refused"], restarts=1)


@pytest.mark.parametrize(
    ("width", "dark"),
    [
        pytest.param(1280, False, id="wide and light"),
        pytest.param(390, True, id="narrow and dark"),
        pytest.param(390, False, id="narrow and light", marks=pytest.mark.slow),
        pytest.param(1280, True, id="wide and dark", marks=pytest.mark.slow),
    ],
)
def test_each_text_stands_out_from_what_is_behind_it(browser: Browser, width: int, dark: bool) -> None:
    shown = Shown(trouble())
    with admin_address(shown) as address:
        page = opened(browser, address, width, dark=dark)
        for events in (5_000, 9_000):
            shown.tree = trouble(events)
            page.wait(f"document.querySelector('#ingest-rows').innerText.includes('{events:,}')")
        faint: dict[str, Any] = page.run(FAINT)
        page.click(node("emitter:partner"))
        page.wait("!document.querySelector('#drawer').hidden")
        faint |= page.run(FAINT)
        page.close()
    assert faint == {}


def test_no_edge_crosses_its_numbers_however_wide_it_is(browser: Browser) -> None:
    shown = Shown(some_tree())
    with admin_address(shown) as address:
        page = opened(browser, address)
        for events in range(1, 5):
            shown.tree = some_tree(events=events * 7_000)
            page.wait(f"document.querySelector('#ingest-rows').innerText.includes('{events * 7},000')")
        page.wait("[...document.querySelectorAll('#edges path')].some(one => one.getAttribute('stroke-width') > 6)")
        assert page.run(COVERED) == []
        page.close()


def test_a_part_is_shown_with_units_and_on_a_phone_its_numbers_have_room(browser: Browser) -> None:
    with admin_address(Shown(trouble())) as address:
        page = opened(browser, address, 390)
        page.click(node("emitter:partner"))
        page.wait("!document.querySelector('#drawer').hidden")
        assert (
            page.run(
                "[...document.querySelectorAll('#d-numbers dt')].find(one => one.textContent === 'utilization')"
                ".nextSibling.textContent"
            )
            == "10 %"
        )
        gap = "(head => { const words = document.createRange(); words.selectNode(head.firstChild); "
        gap += "return head.lastChild.getBoundingClientRect().left - words.getBoundingClientRect().right })(%s)"
        for number in (1, 2):
            head = f"document.querySelector('.sparks > :nth-child({number}) h3')"
            assert page.run(gap % head) >= 8
        page.close()


def test_no_line_of_what_is_wrong_begins_with_a_dot(browser: Browser) -> None:
    away = replace(unhealthy("http://127.0.0.1:9: cannot connect: Connection refused"), next_attempt_seconds=3.0)
    with admin_address(Shown(some_tree(unhealthy={"emitter:partner": away}))) as address:
        page = opened(browser, address)
        page.wait("document.querySelector('#problems').innerText.includes('next attempt')")
        since = "document.querySelector('#problems .since')"
        name = "document.querySelector('#problems .name')"
        assert page.run(f"{since}.getBoundingClientRect().top > {name}.getBoundingClientRect().bottom - 4")
        assert page.run(f"{since}.textContent") == "for 3 min · next attempt in 3 s"
        page.close()


def test_a_name_that_is_too_long_ends_in_dots(browser: Browser) -> None:
    name = "long" * 60
    with admin_address(Shown(some_tree(emitters=[name]))) as address:
        page = opened(browser, address)
        cut = "document.querySelector('#outlet-rows button')"
        assert page.run(f"{cut}.scrollWidth > {cut}.clientWidth")
        assert page.run(f"{cut}.getBoundingClientRect().right <= {cut}.parentElement.getBoundingClientRect().right")
        page.close()


def opened(browser: Browser, address: str, width: int = 1280, *, dark: bool = False) -> Page:
    page = Page(browser, width, dark=dark)
    page.open(f"http://{address}/")
    page.wait("!document.body.classList.contains('wait')")
    return page


TEXTS = "[...document.querySelectorAll('.label, .label *, .node i')]"
CUT = (
    f"{TEXTS}.filter(one => one.scrollWidth > one.clientWidth || one.scrollHeight > one.clientHeight + 1)"
    ".map(one => [one.textContent, one.scrollWidth, one.clientWidth, one.scrollHeight, one.clientHeight].join(' '))"
)


def test_numbers_in_the_picture_are_not_cut(browser: Browser) -> None:
    tree = some_tree(events=99_999, waiting={"partner": 612_000})
    (lane,) = tree.lanes
    stages = {name: replace(stage, discarded={"filtered": 99_999}) for name, stage in lane.stages.items()}
    with admin_address(Shown(replace(tree, lanes=(replace(lane, stages=stages),)))) as address:
        page = opened(browser, address)
        page.wait("document.querySelector('#canvas').innerText.includes('612K · 102 min')")
        assert "99,999 discarded" in page.text("#canvas")
        assert page.run(CUT) == []
        page.close()


@pytest.mark.parametrize("emitters", [2, pytest.param(16, marks=pytest.mark.slow)])
def test_in_many_lanes_numbers_are_not_cut_nor_crossed_by_edges(browser: Browser, emitters: int) -> None:
    names = [f"e{number}" for number in range(emitters)]
    events, deadline = 99_990, time.monotonic() + 60
    shown = Shown(some_tree(lanes=8, emitters=names, events=events, shared=emitters < 9))
    with admin_address(shown) as address:
        page = opened(browser, address)
        while not page.run("/[KM].s/.test(document.querySelector('#canvas').innerText)"):  # it flows
            assert time.monotonic() < deadline
            events += 999
            shown.tree = some_tree(lanes=8, emitters=names, events=events, shared=emitters < 9)
        assert page.run("document.querySelector('#canvas').innerText.includes('0.2 s')")
        assert page.run(CUT) == []
        widths = "[...document.querySelectorAll('#edges path')].map(one => one.getAttribute('stroke-width'))"
        assert max(map(float, page.run(widths))) <= 6.5  # the numbers stand above and below
        page.close()


@pytest.mark.parametrize("lanes", [*(pytest.param(lanes, marks=pytest.mark.slow) for lanes in (1, 2)), 8])
@pytest.mark.parametrize("shared", [False, True])
def test_the_picture_is_as_wide_as_the_page(browser: Browser, lanes: int, shared: bool) -> None:
    with admin_address(Shown(some_tree(lanes=lanes, shared=shared, events=100))) as address:
        page = opened(browser, address)
        picture = "document.querySelector('#picture .scroll')"
        assert page.run(f"{picture}.scrollWidth - {picture}.clientWidth") == 0
        page.close()
