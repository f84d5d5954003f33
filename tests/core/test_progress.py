from __future__ import annotations

import io

import pytest

from polku.progress import Progress, Rate, describe
from polku.text import duration


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.note(0) == 0.0
    for second in range(1, 11):
        clock.now = second
        latest = rate.note(second * 100 if second <= 5 else 500 + (second - 5) * 300)
    assert latest == 300.0
    assert rate.note(0) == 0.0


def test_a_terminal_gets_a_bar_that_is_drawn_again_and_erased_at_the_end() -> None:
    clock, stream = Clock(), Terminal()
    with Progress("sending", 200, stream=stream, clock=clock) as progress:
        for step in range(1, 5):
            clock.now = step * 0.5
            progress.advance(50)
    drawn = stream.getvalue().split("\r\x1b[2K")
    assert drawn[1].startswith("sending ━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌ 50/200, 100/s, 2 s left")
    assert drawn[-2].startswith("sending ━━━━━━━━━━━━━━━━━━━━━━━━ 200/200, 100/s")
    assert drawn[-1] == ""
    assert "\n" not in stream.getvalue()


def test_elsewhere_a_line_comes_now_and_then_and_none_where_it_is_soon_over() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("sending", stream=stream, clock=clock) as progress:
        for second in range(1, 26):
            clock.now = second
            progress.advance(1_000)
    assert stream.getvalue() == "sending: 10,000, 1,000/s\nsending: 20,000, 1,000/s\n"


def test_it_is_silent_where_nobody_wants_it() -> None:
    stream = Terminal()
    with Progress("sending", 1, stream=stream, shown=False) as progress:
        progress.advance()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((5, None, 0.0), "5"), ((0, 12_400, 300.0), "0/12,400, 300/s, 41 s left"), ((2, 2, 9.0), "2/2, 9/s")],
)
def test_it_says_how_far_how_fast_and_how_long(arguments: tuple[int, int | None, float], text: str) -> None:
    assert describe(*arguments) == text


@pytest.mark.parametrize(("seconds", "text"), [(41.3, "41 s"), (723, "12 min 3 s"), (19_260, "5 h 21 min")])
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
