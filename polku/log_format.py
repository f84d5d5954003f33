"""How log lines are written: as text for people, or as JSON, one object a line, for programs.

What strangers say (ids, reasons, texts of exceptions) can forge no line and act on no terminal: control characters and
overrides of the direction of writing are backslash escapes in both formats, and the text of a line that has several
goes on behind a mark.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from polku.text import block, trace

FORMATS = ("text", "json")
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_GOES_ON = "\n  | "
_LIMIT = 32_000  # characters of one text
# Where a line of the inline runtime comes from, by its logger; on Ray each part has a process of its own.
_PARTS = {"polku.gateway": "ingest", "polku.ingest": "ingest", "polku.security": "ingest", "polku.buffer": "buffer"}


class Origin(NamedTuple):
    """What a process is: its pipeline, the lane and the part that it runs (empty: all of them), and its node."""

    pipeline: str = ""
    lane: str = ""
    component: str = ""
    node: str = ""


class _State:
    """What this process has configured."""

    origin = Origin()
    is_json = False


def name_process(origin: Origin) -> None:
    """Name in each line, from now on, what this process is."""
    _State.origin = origin


def is_json() -> bool:
    """Return whether `configure` has chosen JSON in this process."""
    return _State.is_json


def configure(level: str, form: str) -> None:
    """Log to standard error from a level on, here and in the workers of a Ray that is started from here."""
    os.environ["POLKU_LOG_LEVEL"], os.environ["POLKU_LOG_FORMAT"] = level, form
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Ray puts a name before the lines of workers, in colour
    logging.basicConfig(level=LEVELS[level], handlers=[_handler(form)])


def configure_worker(environment: Mapping[str, str]) -> None:
    """Log to standard error in a process that Ray has started, as `POLKU_LOG_LEVEL` and `POLKU_LOG_FORMAT` say.

    Only POLKU's own lines have a level: those of others are left to whoever configures them.
    """
    logging.getLogger("polku").setLevel(LEVELS.get(environment.get("POLKU_LOG_LEVEL", ""), logging.WARNING))
    form = environment.get("POLKU_LOG_FORMAT", "text")
    logging.basicConfig(handlers=[_handler(form)])


def write(message: str, *, level: str = "info") -> None:
    """Write a line for people on standard error: in JSON where the log is."""
    if _State.is_json:
        record = logging.LogRecord("polku", LEVELS[level], "", 0, message.removeprefix("polku: "), None, None)
        message = JsonFormatter().format(record)
    print(message, file=sys.stderr, flush=True)


def say(text: str, *, level: str = "info") -> None:
    """Print a line for people, on standard error: standard output is for events."""
    write(text, level=level)


def warn(text: str) -> None:
    """Print a warning for people, on standard error."""
    write(f"polku: warning: {text}", level="warn")


def as_object(message: str, level: str, logger: str, **about: object) -> str:
    """Return a line of JSON about what was not logged but printed, as by user code in another process."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, "level": level, "logger": logger, "message": block(message, _LIMIT), **about})


class TextFormatter(logging.Formatter):
    """Write a line of text; what follows a line break stands behind a mark, so that it cannot pass for a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return block(super().format(record), _LIMIT).replace("\n", _GOES_ON)


class JsonFormatter(logging.Formatter):
    """Write a record as one JSON object, of ASCII alone; what is not known of it is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object of a record."""
        about: Mapping[str, Any] = getattr(record, "about", {})
        error = about.get("error") or _error(record)
        message = record.getMessage()
        if error:
            message = message.removesuffix(f"\n{error}")
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        origin = _State.origin
        fields = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "component": origin.component or about.get("component") or _part(record.name),
            "pipeline": origin.pipeline,
            "lane": origin.lane,
            "node": origin.node,
            "pid": os.getpid(),
            **{name: about[name] for name in about if name not in ("component", "error")},
            "error": error,
        }
        return json.dumps({name: _plain(value) for name, value in fields.items() if value not in ("", None)})


def _handler(form: str) -> logging.Handler:
    _State.is_json = form == "json"
    if _State.is_json:
        logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if _State.is_json else TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    return handler


def _error(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    return trace(error) if error is not None else ""


def _plain(value: object) -> object:
    return value if isinstance(value, (int, float)) else block(value, _LIMIT)


def _part(logger: str) -> str:
    return next((part for start, part in _PARTS.items() if logger.startswith(start)), "")
