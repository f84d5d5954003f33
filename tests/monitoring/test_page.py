"""The live page in a real Chromium: in every state, by keyboard, on a phone, and after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from polku import Batch, Breaker, BufferStrategy, Hub, Resilience, Retry, RetryableError, new_event
from polku.monitoring.page import page as page_file
from polku.monitoring.stage_statistics import CandidateStatistics, DifferenceStatistics
from polku.monitoring.statistics import PartHealth
from tests.monitoring.trees import CAPACITY, Shown, admin_address, some_tree
from tests.support.browser import Browser, Page, find_browser

pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed"),
    pytest.mark.usefixtures("fast_page"),
]

HOSTILE = ["<script>alert(1)</script>", "\u202etxt.exe", "long" * 60, "مرحبا", "__proto__", "a/b", "x'\"&amp;"]
SHIFT = 0.001  # of the layout, in all: less than anybody sees


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return what opens a page on an address: it must have shown no error, and nothing in it may have jumped."""
    pages: list[Page] = []

    def show(address: str | None, width: int = 1280) -> Page:
        page = Page(browser, width)
        pages.append(page)
        page.open(f"http://{address}/")
        page.wait("!document.body.classList.contains('wait')")
        return page

    yield show
    for page in pages:
        assert page.errors(network=False) == []
        assert sum(value for value, *_ in page.run("shifts")) < SHIFT, page.run("shifts")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.close()


def node(name: str) -> str:
    """Return the script that finds a part in the picture."""
    return f"[...document.querySelectorAll('.node')].find(one => one.dataset.id === {json.dumps(name)})"


def unhealthy(message: str, holds_up: str = "", command: str = "") -> PartHealth:
    return PartHealth(
        healthy=False, message=message, holds_up=holds_up, seconds=200.0, advice="Look at it.", command=command
    )


def test_it_is_small_and_needs_nothing_else() -> None:
    assert len(page_file().body) < 60_000


def test_idle_and_busy(show: Callable[..., Page]) -> None:
    shown = Shown(some_tree())
    with admin_address(shown) as address:
        page = show(address)
        assert "all is well" in page.text("header")
        assert "All is well" in page.text("#problems")
        assert page.run(f"{node('ingest')}.className") == "node idle"
        for events in range(1, 4):
            shown.tree = some_tree(events=events * 1_000)
            page.wait(f"document.querySelector('#ingest-rows').innerText.includes('{events},000')")
        busy = f"{node('ingest')}.className === 'node ok' && document.querySelectorAll('#edges .ok').length"
        deadline = time.monotonic() + 30
        while page.run(busy) != 7:  # what has stopped to count is idle again at the next update
            assert time.monotonic() < deadline
            events += 1
            shown.tree = some_tree(events=events * 1_000)
        assert page.run("document.querySelector('#pulse-svg .l-in').getAttribute('d')") is not None
        assert page.run("document.title") == "shop"


def test_a_dead_destination_a_full_share_and_what_helps(show: Callable[..., Page]) -> None:
    refused = replace(unhealthy("refused", command="nc -vz p 1"), next_attempt_seconds=12.0)
    shown = Shown(some_tree(waiting={"partner": 400}, unhealthy={"emitter:partner": refused}))
    with admin_address(shown) as address:
        page = show(address)
        assert page.text("#problems").split() == [
            "▲",
            *["emitter:partner", "refused", "·", "for", "3", "min", "·", "next", "attempt", "in", "12", "s"],
            *["Look", "at", "it."],
            *["nc", "-vz", "p", "1"],
            "Copy",
        ]
        assert page.text("#verdict") == "▲\n1 thing is wrong"
        assert page.run(f"{node('emitter:partner')}.className") == "node bad"
        assert page.run("document.querySelectorAll('#edges .bad').length") == 2
        assert page.run("document.querySelectorAll('#edges .warn').length") == 0
        row = page.text("#outlet-rows tr:nth-child(2)")
        assert row.split("\t") == [
            "▲ \u2068partner\u2069",
            "400",
            "120 kB",
            "4.0 s",
            "0/s",
            "open",
            "in 12 s",
            "–",
            "none",
        ]
        full = unhealthy("refused", "its share of the buffer is full")
        shown.tree = some_tree(waiting={"partner": CAPACITY}, unhealthy={"emitter:partner": full}, restarts=1)
        page.wait("document.querySelector('#problems').innerText.includes('holds up what comes in: its share')")
        assert page.run("document.querySelectorAll('#edges .warn').length") == 3
        page.wait("document.querySelector('#problems').innerText.includes('started again')")
        assert "▲ shop – " in page.run("document.title")
        shown.tree = replace(shown.tree, ready=False, not_ready="it is draining")
        page.wait("document.querySelector('#verdict').innerText.includes('takes no events')")
        assert "it is draining" in page.text("#wrong-note")


@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.slow)])
def test_lanes_and_many_emitters_are_folded_until_they_are_asked_for(show: Callable[..., Page], width: int) -> None:
    shown = Shown(some_tree(lanes=8, emitters=[f"out-{number}" for number in range(16)], events=100, shared=True))
    with admin_address(shown) as address:
        page = show(address, width)
        assert page.run("document.querySelectorAll('#outlet-rows tr').length") == 128
        folded = page.run("document.querySelectorAll('.node').length")
        assert folded < 50
        page.click("document.querySelector('[data-id=\"lane lane-2\"]')")
        page.wait(f"document.querySelectorAll('.node').length > {folded + 14}")
        assert page.run(f"{node('lane-2/emitter:out-15')} !== undefined")
        assert page.run(f"{node('lane-3/emitter:out-15')} === undefined")


def test_partitions_are_one_stage_with_the_counts_of_all(show: Callable[..., Page]) -> None:
    bad = {"stage-2/partition-2": unhealthy("does not answer")}
    shown = Shown(some_tree(lanes=2, events=100, shared=True, partitions=3, unhealthy=bad))
    with admin_address(shown) as address:
        page = show(address)
        page.wait(f"{node('stage-2')} !== undefined")
        assert page.run(f"{node('stage-2')}.className") == "node bad"
        page.click(node("stage-2"))
        page.wait("document.querySelector('#d-kind').textContent.includes('3 partitions')")
        assert "does not answer" in page.text("#drawer")
        assert page.run("document.querySelectorAll('.node[data-id*=partition]').length") == 0


def test_names_of_strangers_are_text_and_nothing_else(show: Callable[..., Page]) -> None:
    message = "<img src=x onerror=alert(1)>\x1b[2J\u202e"
    parts = {f"emitter:{name}": unhealthy(message, command="nc '<script>'") for name in HOSTILE}
    shown = Shown(some_tree(name="<b>\u202e", emitters=HOSTILE, events=9, unhealthy=parts, errors=[message]))
    with admin_address(shown) as address:
        page = show(address, 390)
        page.resize(1280, 900)
        page.wait("document.querySelectorAll('.node').length === 18")
        told = ""
        for name in HOSTILE:
            page.press("Escape")  # what is open covers others
            page.click(node(f"emitter:{name}"))
            page.wait(f"document.querySelector('#d-name').textContent !== {json.dumps(told)}")
            told = page.run("document.querySelector('#d-name').textContent")
            assert "<img src=x onerror=alert(1)>\\u001b[2J\\u202e" in page.text("#drawer")
        assert page.run("document.querySelectorAll('img, main script, aside script').length") == 0
        assert "\u202e" not in page.run("document.body.innerText")
        assert page.text("#outlet-rows tr:first-child td").strip("▲ \u2068\u2069") == HOSTILE[0]


def test_a_shadow_is_seen_with_its_stage(show: Callable[..., Page]) -> None:
    latest = DifferenceStatistics(event_id="<b>\u202e", result="different", text="metadata.mark", time_ns=1)
    shadow = CandidateStatistics(
        mode="shadow",
        middleware="mark",
        candidate="better",
        share=0.05,
        key="id",
        counts={"same": 90, "different": 10},
        latest=(latest,),
        seconds=0.0,
        fault="",
    )
    tree = some_tree(events=100)
    (lane,) = tree.lanes
    stages = {name: replace(stage, candidates=(shadow,)) for name, stage in lane.stages.items()}
    with admin_address(Shown(replace(tree, lanes=(replace(lane, stages=stages),)))) as address:
        page = show(address)
        page.click(node("stage-1"))
        page.wait("document.querySelector('#drawer').innerText.includes('better, share 0.05')")
        shown = page.text("#drawer")
    assert "different: metadata.mark" in shown
    assert "<b>" in shown
    assert "\u202e" not in shown


def test_all_of_it_works_by_keyboard(show: Callable[..., Page]) -> None:
    shown = Shown(some_tree(events=9, unhealthy={"emitter:partner": unhealthy("refused")}, errors=["refused"]))
    with admin_address(shown) as address:
        page = show(address)
        focused = "document.activeElement.dataset.id"
        page.press("Tab")  # the list of what is wrong, which scrolls
        page.press("Tab")
        assert page.run("document.activeElement.innerText") == "emitter:partner"
        page.press("Enter")
        page.wait("!document.querySelector('#drawer').hidden && document.activeElement.id === 'drawer'")
        told = page.text("#drawer")
        for text in ("refused", "2 times, last", "Sink", "when its share is full: block", "waiting bytes"):
            assert text in told
        page.press("Escape")
        page.wait("document.querySelector('#drawer').hidden && document.activeElement.innerText === 'emitter:partner'")
        for _ in range(2):
            page.press("Tab")
        while page.run(f"{focused} !== 'clients'"):
            page.press("Tab")
        for key, there in (("ArrowRight", "ingest"), ("ArrowRight", "stage-1"), ("ArrowRight", "buffer")):
            page.press(key)
            assert page.run(focused) == there
        page.press("ArrowRight")
        page.press("ArrowDown")
        assert page.run(focused) == "emitter:partner"
        page.press("/")
        assert page.run("document.activeElement.id") == "filter"
        for key in "part":
            page.press(key)
        assert page.run("[...document.querySelectorAll('#outlet-rows tr')].map(row => row.offsetParent !== null)") == [
            False,
            True,
        ]
        page.press("Escape")
        assert page.run("document.querySelectorAll('#outlet-rows tr.gone').length") == 0


class Destination:
    """A destination that is away at first."""

    name = "partner"

    def __init__(self) -> None:
        self.away = True

    def emit(self, batch: Batch) -> None:
        if self.away:
            raise RetryableError("away")


def test_a_real_pipeline_and_the_one_that_comes_after_it(show: Callable[..., Page]) -> None:
    destination = Destination()
    emitter = Resilience(destination, retry=Retry(first=0.01, limit=0.05), breaker=Breaker(failures=2, open_for=0.1))
    hub = Hub(name="orders", runtime="inline").buffer_strategy(BufferStrategy.ring(10)).emitter(emitter)
    with hub.start(admin_addr="127.0.0.1:0") as pipeline:
        address = pipeline.admin_address
        page = show(address)
        pipeline.sender().send([new_event("order", source="shop") for _ in range(10)])
        page.wait("document.querySelector('#problems').innerText.includes('its share of the buffer is full')")
        destination.away = False
        page.wait("document.querySelector('#verdict').innerText.includes('all is well')")
    page.wait("document.querySelector('#verdict').innerText.includes('not connected')")
    with hub.start(admin_addr=address):
        page.wait("document.querySelector('#verdict').innerText.includes('all is well')")
        page.wait("document.querySelector('#n-wait').innerText === '0'")


def test_the_token_is_asked_for(browser: Browser) -> None:
    hub = Hub(name="orders", runtime="inline").emitter(Destination())
    with hub.start(admin_addr="127.0.0.1:0", admin_token="t0ken") as pipeline:
        page = Page(browser)
        page.open(f"http://{pipeline.admin_address}/")
        for token in ("wrong", "t0ken"):
            page.wait("!document.querySelector('#ask').hidden")
            assert page.run("document.activeElement.id") == "token"
            for key in token:
                page.press(key)
            page.press("Enter")
            page.wait("document.querySelector('#ask').hidden")
        page.wait("!document.body.classList.contains('wait')")
        assert page.text("#name") == "orders"
        page.close()
