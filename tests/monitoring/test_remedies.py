"""What is said to help a part that is unhealthy."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from polku import BufferStrategy, GrpcEmitter, Hub, Resilience, WebhookEmitter
from polku.health import DRAINING, Cause
from polku.monitoring.picture import describe
from polku.monitoring.quoting import quoted
from polku.monitoring.remedies import Remedies


def remedies(**pids: int) -> Remedies:
    hub = (
        Hub(runtime="inline")
        .middleware(lambda event: event)
        .buffer_strategy(BufferStrategy.durable("/data/it's/journal.db"))
        .emitter(Resilience(WebhookEmitter("https://ada:secret@partner.example/hook?key=secret", name="hook")))
        .emitter(GrpcEmitter(["collector.example:4317", "other.example:4317"], name="collector"))
    )
    return Remedies(describe(hub.plan("inline")), pids)


@pytest.mark.parametrize(
    ("part", "complaint", "command"),
    [
        ("emitter:hook", "refused", "curl -sS -o /dev/null -w '%{http_code}\\n' https://partner.example"),
        ("lane-2/emitter:collector", "refused", "nc -vz collector.example 4317"),
        ("stage-1", "slow has been busy with one batch for 7 s", "py-spy dump --pid 17"),
        ("dead_letters", "3 were forgotten", "polku dlq list '/data/it'\"'\"'s/journal.db.dead'"),
        ("buffer", "database or disk is full", "df -h '/data/it'\"'\"'s'"),
        ("buffer", "database disk image is malformed", "polku journal verify '/data/it'\"'\"'s/journal.db'"),
        ("buffer", "a page is damaged", "polku journal verify '/data/it'\"'\"'s/journal.db'"),
        ("emitter:hook", "does not answer: ActorDiedError", ""),
        ("unheard-of", "what", ""),
    ],
)
def test_a_command_helps(part: str, complaint: str, command: str) -> None:
    assert remedies(pipeline=17).find(part, complaint, "")[1] == command


def test_who_stops_a_pipeline_is_not_sent_to_look_for_what_is_wrong() -> None:
    assert remedies().find("lane-1/ingest", DRAINING, "")[0].startswith("It ends once what it holds is delivered")
    assert remedies().find("ingest", "no answer for 40 s", "")[0].startswith("Look at the parts behind it")


def test_a_full_share_has_another_advice() -> None:
    found = remedies()
    full = found.find("emitter:hook", "away", "its share of the buffer is full")[0]
    assert full == "Repair its destination, or let it lag alone: overflow='drop_oldest'."  # why is said before it
    assert "overflow=" not in found.find("emitter:hook", "away", "")[0]


@pytest.mark.parametrize(
    ("options", "cause", "advice"),
    [
        (
            {},
            Cause.UNKNOWN,
            "See whether it runs and can be reached. What waits for it is kept, and sent once its destination takes "
            "events again.",
        ),
        (
            {"overflow": "drop_oldest"},
            Cause.UNKNOWN,
            "See whether it runs and can be reached. What waits for it is kept while its share of the buffer has room; "
            "then the oldest events are dropped: drop_oldest.",
        ),
        (
            {"overflow": "drop_newest"},
            Cause.UNKNOWN,
            "See whether it runs and can be reached. What waits for it is kept while its share of the buffer has room; "
            "then new events are dropped: drop_newest.",
        ),
        (
            {"required": False},
            Cause.GIVES_UP,
            "Events for which every attempt fails become dead letters. What waits for it is kept while its share of "
            "the buffer has room; then the oldest events are dropped: drop_oldest.",
        ),
        (
            {},
            Cause.SETTINGS,
            "Fix its address, credentials or permissions; until then it is tried again at the slowest pace. "
            "What waits for it is kept, and sent once that is done.",
        ),
        (
            {},
            Cause.CODE,
            "Its code raises: events for which it always does become dead letters, with the traceback.",
        ),
    ],
)
def test_the_advice_about_an_emitter_says_what_becomes_of_its_events(
    options: dict[str, Any], cause: Cause, advice: str
) -> None:
    hub = Hub(runtime="inline").emitter(WebhookEmitter("https://partner.example/hook"), name="hook", **options)
    found = Remedies(describe(hub.dead_letters("/data/dead").plan("inline")), {})
    assert found.find("lane-1/emitter:hook", "away", "", cause)[0] == advice
    if cause is Cause.CODE:
        assert found.find("emitter:hook", "away", "", cause)[1] == "polku dlq list /data/dead --emitter=hook"


def test_an_emitter_that_is_slow_and_drops_has_an_advice_of_its_own() -> None:
    advice, command = remedies().find("emitter:hook", "drops", "", is_slow=True)
    assert (advice, command) == (remedies().say("emitter:hook", "drops", "", is_slow=True), "")
    assert "overflow='block'" in advice


def test_one_that_is_slow_and_holds_up_others_is_not_to_be_repaired() -> None:
    advice = remedies().find("emitter:hook", "ok", "its share of the buffer is full", is_slow=True)[0]
    assert advice.startswith("It takes less than comes: ")
    assert advice.endswith("or let it lag alone: overflow='drop_oldest'.")


def test_what_blocks_the_event_loop_is_not_always_middleware() -> None:
    advice, command = remedies(pipeline=17).find("event_loop", "has not turned for 3 s: something blocks it", "")
    assert "the machine may have too little CPU" in advice
    assert "it names" not in advice  # it names nothing
    advice, command = remedies(pipeline=17).find("event_loop", "has not turned for 3 s: slow blocks it", "")
    assert (advice.partition(" works")[0], command) == ("The code that it names", "py-spy dump --pid 17")


def test_the_process_of_a_part_is_its_own_or_that_of_its_lane() -> None:
    busy = "slow has been busy with one batch for 7 s"
    assert remedies(**{"lane-1/stage-1": 5, "lane-1": 6}).find("lane-1/stage-1", busy, "")[1].endswith(" 5")
    assert remedies(**{"lane-1": 6}).find("lane-1/stage-1", busy, "")[1].endswith(" 6")


@pytest.mark.parametrize("text", ["/a b", "$(reboot)", "it's", "`x`", "a\\b"])
def test_foreign_text_is_one_word_of_a_shell(text: str) -> None:
    assert shlex.split(quoted(text)) == [text]


def test_nothing_in_foreign_text_acts_on_the_terminal() -> None:
    assert quoted("a'\x1b[2J\n\u202eb") == "$'a\\'\\x1b[2J\\x0a\\u202eb'"
