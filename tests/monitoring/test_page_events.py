"""Events of a part on the live page, in a real Chromium: for who has the key, and only while somebody looks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from polku import Batch, Failure, Hub, Pipeline, Transform, new_event
from polku.event.v1.event_pb2 import Event
from polku.monitoring.run_files import running
from tests.monitoring.trees import Shown, admin_address, some_tree
from tests.support.browser import Browser, Page, find_browser
from tests.support.server import polku_here

pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed"),
    pytest.mark.usefixtures("fast_page"),
]

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[2J"
ROWS = "[...document.querySelectorAll('#d-events summary')].map(one => one.innerText.replace(/[\\u2068\\u2069]/g, ''))"


def mark(event: Event) -> None:
    event.metadata["seen"] = "yes"


class Partner:
    """A destination whose name is a glob, and markup."""

    name = "<b>*[a]"

    def emit(self, batch: Batch) -> list[Failure]:
        return [Failure(event.id, HOSTILE, retryable=False) for event in batch if event.event_type == "odd"]


def other(batch: Batch) -> None:
    """Take everything."""


def hub() -> Hub:
    return Hub(name="shop").redact("authorization", payload=True).middleware(Transform(mark))


def send(pipeline: Pipeline, id: str, kind: str = "paid") -> None:
    metadata = {"authorization": "secret", "page": "7"}
    pipeline.sender().send([new_event(kind, id=id, source="shop", metadata=metadata, payload=b"private")])


def link(pipeline: Pipeline) -> str:
    """Return what `polku ps --link` prints of a pipeline that runs here."""
    lines = polku_here("ps", "--link").stdout.splitlines()
    (found,) = [url for line in lines if (url := line.split()[-1]).startswith(f"http://{pipeline.admin_address}/#")]
    return found


def visit(page: Page, url: str) -> None:
    """Open a link with a key, which the page takes out of its address."""
    page.call("Page.navigate", url=url)
    page.wait("document.body && document.body.className === '' && location.hash === ''")


def click(page: Page, part: str) -> None:
    page.press("Escape")
    page.click(f"[...document.querySelectorAll('.node')].find(one => one.dataset.id === {json.dumps(part)})")
    page.wait(f"document.querySelector('#d-name').textContent.includes({json.dumps(part)})")
    page.wait("document.querySelector('#d-note').textContent.includes('since this was opened')")


def wait_for(is_so: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.05)


def tapped(pipeline: Pipeline) -> set[str]:
    """Return the parts of an inline pipeline at which somebody looks."""
    runtime: Any = pipeline._runtime
    return {name for name, part in runtime._lane.tapped().items() if part.tap is not None}


def test_events_of_a_part_are_shown_to_who_has_the_key_and_for_as_long_as_it_is_open(browser: Browser) -> None:
    with hub().emitter(Partner()).emitter(other).start(runtime="inline", admin_addr="127.0.0.1:0") as pipeline:
        page = Page(browser)
        visit(page, link(pipeline))
        assert not tapped(pipeline)
        click(page, f"emitter:{Partner.name}")
        wait_for(lambda: tapped(pipeline) == {f"emitter:{Partner.name}"})
        send(pipeline, HOSTILE, "odd")
        page.wait(f"{ROWS}.length === 2")
        dead, given = page.run(ROWS)
        shown = r"<img src=x onerror=alert(1)>\u202e"
        assert dead.startswith("dead")
        assert given.startswith("in")
        assert shown in given
        assert shown in dead.partition("(")[2]  # the reason
        page.click("document.querySelector('#d-events summary')")
        text = page.wait("document.querySelector('#d-events [open] pre').innerText")
        assert json.loads(text)["event"]["metadata"] == {"authorization": "[redacted]", "page": "7", "seen": "yes"}
        assert "private" not in text
        send(pipeline, "y")
        page.click("document.querySelector('#d-events summary')")
        page.wait(f"{ROWS}.some(one => one.startsWith('out paid y'))")  # what is unfolded stays; then the next comes
        click(page, "stage-1")
        wait_for(lambda: tapped(pipeline) == {"stage-1"})
        send(pipeline, "z")
        page.wait(f"{ROWS}.some(one => one.startsWith('in paid z Transform'))")
        assert page.run("document.querySelectorAll('img, b b').length") == 0
        page.press("Escape")
        wait_for(lambda: not tapped(pipeline))
        assert page.errors() == []
        assert sum(value for value, *_ in page.run("shifts")) < 0.001, page.run("shifts")
        page.close()


def test_who_has_no_key_is_told_how_to_get_it(browser: Browser) -> None:
    with hub().emitter(other).start(runtime="inline", admin_addr="127.0.0.1:0") as pipeline:
        page = Page(browser)
        page.open(f"http://{pipeline.admin_address}/")
        page.wait("document.body.className === ''")
        page.press("Escape")
        page.click("document.querySelector('.node[data-id=ingest]')")
        page.wait("document.querySelector('#d-note').textContent.includes('who runs the pipeline')")
        assert "polku ps --link" in page.text("#d-key")
        assert page.errors() == []  # nothing is asked for that would be refused
        page.click("document.querySelector('#d-key .plain')")
        page.wait("!document.querySelector('#ask').hidden")
        (here,) = [one for one in running() if one.admin == pipeline.admin_address]
        for key in here.key:
            page.press(key)
        page.press("Enter")
        page.wait("document.querySelector('#drawer')?.hidden && document.body.className === ''")  # it is loaded again
        click(page, "ingest")
        wait_for(lambda: tapped(pipeline) == {"ingest"})
        send(pipeline, "x")
        page.wait(f"{ROWS}.some(one => one.startsWith('out paid x'))")
        page.close()


def test_what_collects_is_not_held_up_before_its_time(browser: Browser) -> None:
    from msgspec.structs import replace

    from polku.monitoring.statistics import CollectionStatistics

    tree = some_tree(events=100, waiting={"audit": 500})
    (lane,) = tree.lanes
    held = CollectionStatistics(groups=1, events=500, bytes=9, early=0, max_age_seconds=60.0)
    emitters = {name: replace(one, collection=held, circuit="closed") for name, one in lane.emitters.items()}
    shown = Shown(replace(tree, lanes=(replace(lane, emitters=emitters),)))
    state = "document.querySelector('.node[data-id=\"emitter:audit\"]').className"
    with admin_address(shown) as address:
        page = Page(browser)
        page.open(f"http://{address}/")
        page.wait("document.body.className === ''")
        assert page.wait(state) == "node idle"
        shown.tree = some_tree(events=100, waiting={"audit": 500})
        page.wait(f"{state} === 'node warn'")
        page.close()


@pytest.mark.slow  # test_page_on_ray.py has a page of lanes, test_tap.py the events of parts on Ray
@pytest.mark.usefixtures("ray_session")
def test_on_ray_the_events_of_a_lane_are_shown(browser: Browser) -> None:
    lanes = hub().emitter(Partner()).lanes(2)
    with lanes.start(runtime="ray", admin_addr="127.0.0.1:0") as pipeline:
        page = Page(browser)
        visit(page, link(pipeline))
        click(page, f"lane-1/emitter:{Partner.name}")
        page.wait("document.querySelector('#d-note').textContent.includes('since this was opened')")
        for number in range(600):
            send(pipeline, f"{HOSTILE}{number}", "odd")
            if page.run(f"{ROWS}.length"):
                break
        assert page.wait(f"{ROWS}.some(one => one.startsWith('dead odd <img'))", 60)
        page.click("document.querySelector('#d-events summary')")
        text = page.wait("document.querySelector('#d-events [open] pre').innerText")
        assert "private" not in text
        assert "secret" not in text
        assert page.errors() == []
        page.close()
