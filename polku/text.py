"""Make foreign text fit to be passed on: it can be encoded, stays on its line, and has a bounded length.

Foreign is what user code, destinations, plugins and clients say: texts of exceptions, reasons, ids. It comes through
here once, where it enters, and stands as it is from then on in Acks, dead letters, health and the log. What could break
one of them is written as a backslash escape: half of a surrogate pair (`json.loads` makes them of what clients send)
cannot be encoded, line breaks forge lines of the log, and control characters and overrides of the direction of writing
act on the terminal that shows them. What exceptions say may hold secrets (clients put the URL that they called into
them, or its headers): those that can be recognised are left out.
"""

from __future__ import annotations

import re
import traceback

from polku.errors import UserCodeError
from polku.lazy import pattern

LINE = 500
"""How many characters of a foreign sentence are passed on."""

BLOCK = 16_000
"""How many characters of a traceback are kept: its beginning and its end."""

_ID = 256
_SECRET = pattern(
    r"(\b(?:bearer|basic)\s{1,9})[a-z0-9+/_.~=-]{8,}"
    r"|(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,200}:)[^\s/@]{1,500}(?=@)"
    r"|(\b(?:\w{1,30}[._-])?(?:password|passwd|passphrase|secret|token|api[_-]?key|(?:access|secret|private)[_-]key)"
    r"(?:=|[\"']\s{0,9}[:=]\s{0,9}|:\s{1,9}(?=\S{0,99}[0-9]))[\"']?)[^\s\"',;&)}\]]+",
    re.IGNORECASE,
)
_BEYOND_LINE = pattern("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BEYOND_BLOCK = pattern("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def line(text: object, limit: int = LINE) -> str:
    """Return text as one printable line of at most `limit` characters; never raises."""
    if type(text) is str and len(text) <= limit and text.isascii() and text.isprintable():
        return text
    return _cut(_BEYOND_LINE.sub(_escaped, _cut(_string(text), limit)), limit)


def block(text: object, limit: int = BLOCK) -> str:
    """Return text of several lines, printable, its middle left out where it is too long; never raises."""
    whole = _string(text)
    if len(whole) > limit:
        left_out = f"\n… {len(whole) - limit} characters …\n"
        whole = whole[: limit // 2] + left_out + whole[-(limit // 2) :]
    return _BEYOND_BLOCK.sub(_escaped, whole)


def counted(number: int, noun: str, verb: str = "", verbs: str = "") -> str:
    """Return a number with its noun, and its verb: `1 event is`, `1,200 events are`."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural} {verb if number == 1 else verbs}".rstrip()


def duration(seconds: float) -> str:
    """Return a time for people, in its largest two units: `41 s`, `12 min 3 s`, `5 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def span(seconds: float) -> str:
    """Return for how long something is so: `45 s`, and minutes where it is more than two of them, `9 min 56 s`."""
    return f"{seconds:.0f} s" if seconds <= 120 else duration(seconds)


def next_attempt(seconds: float) -> str:
    """Return when something is tried again, for people: `next attempt in 12 s`; empty where that is now."""
    return f"next attempt in {duration(seconds)}" if round(seconds) else ""


def said(error: BaseException, limit: int = LINE) -> str:
    """Return what an exception says, or its type where it says nothing."""
    return line(redacted(error, 8 * limit), limit) or line(type(error).__name__)


def named(error: BaseException, limit: int = LINE) -> str:
    """Return an exception's type and what it says: `ValueError: too odd`."""
    name = line(type(error).__name__)
    text = line(redacted(error, 8 * limit), limit)
    if isinstance(error, UserCodeError):  # it has the name of what it stands for in its text
        return text
    return f"{name}: {text}" if text else name


def trace(error: BaseException) -> str:
    """Return the traceback of an exception."""
    try:
        return block(redacted(block("".join(traceback.format_exception(error)), 2 * BLOCK), 4 * BLOCK))
    except BaseException as deeper:
        return f"{named(error)} (its traceback cannot be had: {type(deeper).__name__})"


def redacted(text: object, limit: int = 8 * LINE) -> str:
    """Return the first `limit` characters of text without the secrets in them; never raises.

    Secrets are passwords in URLs, credentials of HTTP, and what is called a password, token or key.
    """
    return _SECRET.sub(_without_secret, _string(text)[:limit])


def as_id(value: object) -> str:
    """Return an event's id as it is where a message can hold it; what user code gave instead of one, as a line."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return line(value, _ID)
        return value
    return "" if value is None else line(value, _ID)


def _string(text: object) -> str:
    if type(text) is str:
        return text
    try:
        return str.__str__(str(text))
    except BaseException as error:  # an exception's own code may raise anything, `SystemExit` too
        return f"(its text cannot be had: {type(error).__name__})"


def _without_secret(match: re.Match[str]) -> str:
    return f"{next(filter(None, match.groups()))}***"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
