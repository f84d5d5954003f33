"""What browsers send for pages, and what is no page, over HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from polku import Hub, Pipeline, PlanError
from polku.gateway.http.browser import Pages
from polku.gateway.http.refusal import RequestError

OURS = "https://app.example.org"


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    hub = Hub(runtime="inline").security(origins=[OURS]).emitter(lambda batch: None, name="nothing")
    with hub.start(http_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        yield pipeline


def ask(pipeline: Pipeline, headers: Mapping[str, str], method: str = "POST", path: str = "/v1/events") -> Any:
    host, _, port = str(pipeline.http_address).rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    body = json.dumps({"event_type": "x", "source": "page"}) if method == "POST" else None
    connection.request(method, path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    message = json.loads(content)["errors"][0]["message"] if response.status == 403 else ""
    return response.status, {name.lower(): value for name, value in response.getheaders()}, message


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            {"Origin": "https://evil.example"},
            "Origin: pages of 'https://evil.example' may not send; allow it with Hub()",
        ),
        ({"Origin": "null"}, "Origin: pages of 'null' may not send"),
        ({"Origin": f"{OURS}:8443"}, "may not send"),
        ({"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site: pages of other sites"),
        ({"Sec-Fetch-Site": "same-site"}, "Sec-Fetch-Site: pages of other sites"),
        (
            {"Host": "evil.example:8080", "User-Agent": "Mozilla/5.0"},
            "Host: 'evil.example:8080' is no name of",
        ),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, "is no name of this machine"),
    ],
)
def test_pages_of_strangers_are_refused(pipeline: Pipeline, headers: dict[str, str], said: str) -> None:
    status, answered, message = ask(pipeline, headers)
    assert (status, said in message) == (403, True), message
    assert "access-control-allow-origin" not in answered


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:8080"},
        {"Host": "[::1]:80"},
        {"Host": "polku.localhost"},
        {"Host": "events.example.org"},
        {"Host": "events.example.org", "User-Agent": "Mozilla/5.0", "X-Forwarded-For": "10.0.0.1"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_what_is_no_page_is_let_in(pipeline: Pipeline, headers: dict[str, str]) -> None:
    assert ask(pipeline, headers)[0] == 200


def test_a_page_that_is_named_may_ask_send_and_read(pipeline: Pipeline) -> None:
    asked = {"Origin": OURS, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    status, answered, _ = ask(pipeline, asked, "OPTIONS")
    assert (status, answered["access-control-allow-origin"], answered["vary"]) == (204, OURS, "Origin")
    assert "POST" in answered["access-control-allow-methods"]
    assert "Content-Type" in answered["access-control-allow-headers"]
    status, answered, _ = ask(pipeline, {"Origin": OURS, "Sec-Fetch-Site": "cross-site"})
    assert (status, answered["access-control-allow-origin"]) == (200, OURS)
    _, answered, _ = ask(pipeline, asked | {"Origin": "https://evil.example"}, "OPTIONS")
    assert "access-control-allow-origin" not in answered
    assert ask(pipeline, {"Origin": OURS}, path="/v1/logs")[1]["access-control-allow-origin"] == OURS


def test_elsewhere_than_on_loopback_every_host_is_taken_and_health_has_no_secrets(pipeline: Pipeline) -> None:
    browser = {"Host": "events.example.org", "User-Agent": "Mozilla/5.0"}
    Pages().check("POST", browser, "10.0.0.7")
    for method, own in (("POST", "127.0.0.1"), ("GET", "::1")):
        with pytest.raises(RequestError):
            Pages().check(method, browser, own)
    Pages().check("GET", {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}, "127.0.0.1")
    Pages().check("POST", {"Host": "", "Sec-Fetch-Site": "same-origin"}, "")


@pytest.mark.parametrize(
    "origins", ["https://a.example", [""], ["https://a.example/path"], ["a.example"], [5], 5, ["*"]]
)
def test_a_wrong_origin_is_named(origins: Any) -> None:
    with pytest.raises(PlanError, match="origin"):
        Hub().security(origins=origins)
