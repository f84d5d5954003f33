"""Follow files that grow, as logs do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from polku import checks
from polku.checks import absolute
from polku.clock import Clock
from polku.errors import PlanError
from polku.files.decode import BadText, Decode, Form, TooLong

if TYPE_CHECKING:
    from polku.files.follower import Follower

_COMPRESSED = ("*.gz", "*.zst", "*.xz", "*.bz2", "*.lz4", "*.zip")


class Start(StrEnum):
    """Say where files begin that are there when a pipeline starts for the first time; later ones are read whole."""

    BEGINNING = "beginning"
    END = "end"


@dataclass(frozen=True, slots=True)
class FileSource:
    """Follow the files of one or several glob patterns: each line, or each record of several, becomes an event.

    A file is followed when it is renamed within its folder, and read to its end when no pattern leads to it any more;
    one that is truncated begins again, and what was not read of it before is read from its copy (`app.log.1`), if there
    is one. Names that match `exclude` are left out.

    How far each file is read stands in a file beside the journal of a durable buffer, or at `offsets`; without either
    it is forgotten at the end. It is written each `commit_seconds`, and says no more than what is in the pipeline, at
    its level. After a crash the records since then come again, with the same ids. `start` is for the first start.

    `multiline` is a regular expression that the first line of a record matches somewhere, as `^\\S` or `^\\d{4}-`; the
    last record is complete `multiline_seconds` after its last line. A line, or a record of several, has at most
    `max_line_bytes`; `too_long` says what becomes of a longer line (`refuse`, `cut`), and a longer record is divided.

    `decode` says what a record is: `text` (the payload of an event of `event_type`; `bad_text` says what becomes of
    what is no UTF-8: `replace`, `keep`, `refuse`), `json`, `cloudevents`, or `ingestor` (bytes for the ingestor of
    `source`). Events without a source get `source`, which is the file's path if not given, and all have metadata
    `file.path`. At most about `window` records and `window_bytes` bytes are in flight. Files are looked at each
    `poll_seconds`, and names each `scan_seconds`; a file that was moved is forgotten when it did not change for
    `rotate_seconds`.
    """

    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    exclude: Sequence[str] = field(default=_COMPRESSED, kw_only=True)
    offsets: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    start: Start | str = field(default=Start.BEGINNING, kw_only=True)
    decode: Decode | str = field(default=Decode.TEXT, kw_only=True)
    event_type: str = field(default="log.line", kw_only=True)
    source: str = field(default="", kw_only=True)
    cluster: str = field(default="", kw_only=True)
    format: str = field(default="", kw_only=True)
    multiline: str | None = field(default=None, kw_only=True)
    multiline_seconds: float = field(default=1.0, kw_only=True)
    max_line_bytes: int = field(default=256 * 1024, kw_only=True)
    too_long: TooLong | str = field(default=TooLong.REFUSE, kw_only=True)
    bad_text: BadText | str = field(default=BadText.REPLACE, kw_only=True)
    name: str = field(default="file", kw_only=True)
    window: int = field(default=10_000, kw_only=True)
    window_bytes: int = field(default=16 * 1024 * 1024, kw_only=True)
    poll_seconds: float = field(default=0.25, kw_only=True)
    scan_seconds: float = field(default=1.0, kw_only=True)
    rotate_seconds: float = field(default=10.0, kw_only=True)
    commit_seconds: float = field(default=1.0, kw_only=True)

    one_lane: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", _patterns(self.paths))
        if isinstance(self.exclude, str) or not all(isinstance(name, str) and name for name in self.exclude):
            raise checks.fault("FileSource", "exclude", self.exclude, "must be a list of patterns of names")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if self.offsets is not None:
            object.__setattr__(self, "offsets", _file("offsets", self.offsets))
        for option, kind in (("start", Start), ("decode", Decode), ("too_long", TooLong), ("bad_text", BadText)):
            object.__setattr__(self, option, checks.choice("FileSource", option, getattr(self, option), kind))
        check_texts("FileSource", self)
        begins_pattern("FileSource", self.multiline)
        for option in ("window", "window_bytes", "max_line_bytes"):
            checks.whole("FileSource", option, getattr(self, option))
        for option in ("multiline_seconds", "poll_seconds", "scan_seconds", "rotate_seconds", "commit_seconds"):
            checks.positive("FileSource", option, getattr(self, option))

    @property
    def readers(self) -> tuple[str, ...]:
        """The sources that must have an ingestor."""
        return (self.source,) if self.decode is Decode.INGESTOR else ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns, as absolute paths."""
        return _patterns(self.paths)

    @property
    def form(self) -> Form:
        """How records are made."""
        bad_text, too_long = BadText(self.bad_text), TooLong(self.too_long)
        return Form(Decode(self.decode), self.event_type, bad_text, too_long, self.max_line_bytes)

    def beside(self, journal: str, name: str) -> FileSource:
        """Return this source with its offsets beside a journal, where no other place was chosen."""
        return self if self.offsets is not None else replace(self, offsets=f"{journal}.{name}.offsets")

    def build(self, clock: Clock) -> Follower:
        """Make the running source."""
        from polku.files.follower import Follower

        return Follower(self, clock)


def check_texts(where: str, config: object) -> None:
    """Make sure of what sources of text have in common: a name, a type of events, and a source where it is needed."""
    for option in ("name", "event_type"):
        value = getattr(config, option)
        if not isinstance(value, str) or not value:
            raise checks.fault(where, option, value, "must be a text, not empty")
    for option in ("source", "cluster", "format"):
        if not isinstance(getattr(config, option), str):
            raise checks.fault(where, option, getattr(config, option), "must be a text")
    if getattr(config, "decode") is Decode.INGESTOR and not getattr(config, "source"):  # noqa: B009
        raise PlanError("decode='ingestor' needs source=, the source whose ingestor reads the bytes", where=where)


def begins_pattern(where: str, multiline: object) -> re.Pattern[bytes] | None:
    """Return the pattern that the first line of a record matches."""
    if multiline is None:
        return None
    try:
        if isinstance(multiline, str) and multiline:
            return re.compile(multiline.encode())
    except (re.error, UnicodeEncodeError):
        pass
    fix = r"must be a regular expression that the first line of a record matches, such as '^\\S'"
    raise checks.fault(where, "multiline", multiline, fix)


def _patterns(paths: object) -> tuple[str, ...]:
    given = (paths,) if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(given, Sequence) or not given:
        raise checks.fault("FileSource", "paths", paths, "must be a glob pattern, such as '/var/log/app/*.log'")
    return tuple(_file("paths", path) for path in given)


def _file(option: str, path: object) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text or text.endswith(os.sep):
        raise checks.fault("FileSource", option, path, "must be the path of a file")
    return absolute(text)
