"""Signatures of webhooks, by the examples that their senders publish."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable
from typing import Any, cast

import pytest

from polku import Event, HmacVerifier, IngestContext, PlanError
from polku.codes import Code
from polku.errors import InputError
from polku.ingest import JsonIngestor
from tests.support.clock import FakeClock

# https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
GITHUB_SECRET, GITHUB_BODY = "It's a Secret to Everybody", b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
# https://api.slack.com/authentication/verifying-requests-from-slack
SLACK_SECRET, SLACK_TIME = "8f742231b10e8888abcd99yyyzzz85a5", 1531420618
SLACK_BODY = (
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&"
    b"channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&"
    b"response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&"
    b"trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
SLACK_SIGNATURE = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
STRIPE_SECRET, STRIPE_TIME, STRIPE_BODY = "whsec_test", 1492774577, b'{"type": "charge.succeeded"}'


def read(data: bytes) -> list[Event]:
    return [Event(payload=data)]


def ingest(verifier: HmacVerifier, data: bytes, headers: dict[str, str], now: int = SLACK_TIME) -> bytes:
    running = verifier.build(FakeClock(start_ns=now * 1_000_000_000))
    records = running.ingest(data, IngestContext("hook", headers=headers))
    (event,) = cast("list[Event]", records)
    return event.payload


def stripe(*secrets: str, time: int = STRIPE_TIME) -> str:
    signed = f"{time}.".encode() + STRIPE_BODY
    signatures = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={time}", *(f"v1={signature}" for signature in signatures), "v0=old"])


def test_the_examples_of_the_senders_are_good() -> None:
    github = HmacVerifier.github(GITHUB_SECRET, read)
    assert ingest(github, GITHUB_BODY, {"x-hub-signature-256": GITHUB_SIGNATURE}) == GITHUB_BODY
    slack = {"x-slack-signature": SLACK_SIGNATURE, "x-slack-request-timestamp": str(SLACK_TIME)}
    assert ingest(HmacVerifier.slack(SLACK_SECRET, read), SLACK_BODY, slack) == SLACK_BODY
    signature = {"stripe-signature": stripe("other", STRIPE_SECRET)}
    assert ingest(HmacVerifier.stripe(STRIPE_SECRET, read), STRIPE_BODY, signature, STRIPE_TIME) == STRIPE_BODY


def test_a_secret_may_take_the_place_of_another() -> None:
    both = HmacVerifier.github(["next", GITHUB_SECRET], read)
    assert ingest(both, GITHUB_BODY, {"x-hub-signature-256": GITHUB_SIGNATURE}) == GITHUB_BODY
    assert GITHUB_SECRET not in repr(both)


@pytest.mark.parametrize(
    ("verifier", "headers", "fault"),
    [
        (HmacVerifier.github("other", read), {"x-hub-signature-256": GITHUB_SIGNATURE}, "is not that of this body"),
        (HmacVerifier.github(GITHUB_SECRET, read), {"x-hub-signature-256": "sha256=ä"}, "is not that of this body"),
        (HmacVerifier.github(GITHUB_SECRET, read), {}, "x-hub-signature-256: there is none"),
        (HmacVerifier.stripe("s", read), {"stripe-signature": "v1=aa"}, "has no time"),
        (HmacVerifier.stripe("s", read), {"stripe-signature": stripe("s")}, "more than 300 s away"),
        (HmacVerifier.slack("s", read), {"x-slack-signature": "v0=a"}, "x-slack-request-timestamp: there is none"),
    ],
)
def test_what_is_not_signed_is_not_read(verifier: HmacVerifier, headers: dict[str, str], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as refused:
        ingest(verifier, GITHUB_BODY, headers)
    assert refused.value.code is Code.UNAUTHENTICATED


def test_a_verifier_without_a_secret_is_refused() -> None:
    with pytest.raises(PlanError, match="must be one secret or several"):
        HmacVerifier.github("", read)
    with pytest.raises(PlanError, match="tolerance"):
        HmacVerifier.stripe("s", read, tolerance=0)


async def test_large_bodies_are_signed_like_small_ones() -> None:
    body = bytes(1_000_000)
    verifier = HmacVerifier.github("secret", read).build(FakeClock())
    good = hmac.new(b"secret", body, hashlib.sha256).hexdigest()

    async def ingest_large(signature: str) -> list[Event]:
        context = IngestContext("hook", headers={"x-hub-signature-256": f"sha256={signature}"})
        return cast("list[Event]", await cast("Awaitable[object]", verifier.ingest(body, context)))

    assert [event.payload for event in await ingest_large(good)] == [body]
    with pytest.raises(InputError, match="is not that of this body"):
        await ingest_large("0" * 64)


def test_an_ingestor_of_signed_requests_takes_turns_as_the_inner_one_does() -> None:
    signed, plain = (HmacVerifier.github("secret", one).build(FakeClock()) for one in (JsonIngestor(), read))
    assert (getattr(signed, "takes_turns", False), hasattr(signed, "ingest_in_slices")) == (True, True)
    assert (getattr(plain, "takes_turns", False), hasattr(plain, "ingest_in_slices")) == (False, False)


async def test_large_records_that_are_signed_are_read_in_slices_too() -> None:
    body = b'{"payload": "%s"}' % base64.b64encode(bytes(300_000))
    signature = hmac.new(b"secret", body, hashlib.sha256).hexdigest()
    verifier: Any = HmacVerifier.github("secret", JsonIngestor()).build(FakeClock())
    context = IngestContext("hook", headers={"x-hub-signature-256": f"sha256={signature}"})
    found = list(await verifier.ingest_in_slices(body, context))
    assert None in found
    assert [event.payload for event in found if event is not None] == [bytes(300_000)]
    with pytest.raises(InputError, match="is not that of this body"):
        await verifier.ingest_in_slices(body + b" ", context)
