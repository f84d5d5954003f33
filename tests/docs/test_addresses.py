"""The pages open the ports of a gateway elsewhere than at the default admin address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polku.monitoring.address import DEFAULT
from tests.docs.pages import PAGES

_OPENED = re.compile(r"(?:--(?:grpc|http|otlp|otlp-http)-addr |_addr=\"|POLKU_\w+_ADDR=)([\w.]+:\d+)")


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_no_page_opens_a_port_of_the_gateway_at_the_admin_address(page: Path) -> None:
    assert DEFAULT not in _OPENED.findall(page.read_text("utf-8"))


def test_addresses_are_found() -> None:
    assert len([found for page in PAGES for found in _OPENED.findall(page.read_text("utf-8"))]) > 5
