"""The live page of a pipeline on Ray: two lanes, a process that dies and comes back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from polku import Batch, Filter, Hub, new_event
from tests.monitoring.firing import State, check, series_of
from tests.support.browser import Browser, Page, find_browser

RESTARTED = frozenset({"PolkuRestarts"})


def partner(batch: Batch) -> None:
    """Take everything."""


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
@pytest.mark.usefixtures("ray_session")
def test_lanes_their_processes_and_a_restart_are_on_the_page(browser: Browser, tmp_path: Path) -> None:
    hub = Hub(name="orders").middleware(Filter(lambda event: True)).emitter(partner).lanes(2)
    with hub.start(runtime="ray", admin_addr="127.0.0.1:0", grpc_addr="127.0.0.1:0") as pipeline:
        page = Page(browser)
        page.open(f"http://{pipeline.admin_address}/")
        page.wait("document.querySelector('#verdict').innerText.includes('all is well')")
        pipeline.sender().send([new_event("order", source="shop") for _ in range(7)])
        page.wait("document.querySelector('#ingest-rows').innerText.includes('\\t7\\t0')")
        assert page.run("document.querySelectorAll('.group').length") == 2
        assert page.run("document.querySelectorAll('#proc-rows tr').length") == 8
        assert f"gRPC {pipeline.address}" in page.text("#facts")
        before = series_of(pipeline.statistics())
        victim = pipeline.statistics().processes["lane-2/emitter:partner"].pid
        os.kill(victim, signal.SIGKILL)
        page.wait("document.querySelector('#problems').innerText.includes('lane-2/emitter:partner')", 60)
        page.wait("document.querySelector('#problems').innerText.includes('was started again')", 60)
        assert page.errors() == []
        after = series_of(pipeline.statistics())
    check([State("a part is restarted again and again", before, after, RESTARTED)], tmp_path)
