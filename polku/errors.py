"""Every error that POLKU raises, in one tree.

    PolkuError
    ├── PlanError            the pipeline that was described cannot work
    ├── ChangeError          a pipeline that runs cannot be changed so; it runs on as it was
    ├── SettingError         an option or environment variable has a wrong value
    ├── RecordError          one record or event of the input is refused; the others go on
    ├── InputError           a whole message of the input is refused
    ├── EmitError            a destination did not take events
    │   ├── RetryableError       ... it may take them later
    │   ├── RejectedError        ... it never will: these events become dead letters
    │   └── MisconfiguredError   ... until somebody mends credentials, address or rights
    ├── JournalError         a journal on disk cannot be used now
    │   ├── JournalLockedError   ... another process has it
    │   ├── JournalPathError     ... its path or disk can never have one
    │   └── JournalCorruptError  ... it, or a part of it, cannot be read
    ├── UserCodeError        user code raised what ends a task or a process: `SystemExit`, `CancelledError`, a panic
    └── PipelineError        the pipeline cannot take events now
        ├── UnavailableError     a part of it does not answer; the outcome is unknown
        │   └── PastLifeError        ... it knows another sender of this name, with a higher epoch
        ├── DrainingError        it is stopping
        └── NotRunningError      it was not started, or has stopped

Errors carry their fields, so that they survive pickling between actors and can be read by programs.
"""

from __future__ import annotations

from collections.abc import Sequence

from polku.codes import Code


class PolkuError(Exception):
    """Be the root of all errors that POLKU raises on purpose."""


class PlanError(PolkuError):
    """Say what is wrong with a pipeline's plan, where, and how to mend it."""

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), (self.message,), {"where": self.where})

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class ChangeError(PolkuError):
    """Say why a pipeline that runs was not changed: nothing of it was.

    `reasons` are sentences; `difference` is what was to change, a line for each part.
    """

    def __init__(self, reasons: Sequence[str], difference: str = "") -> None:
        super().__init__(tuple(reasons), difference)
        self.reasons = tuple(reasons)
        self.difference = difference

    def __str__(self) -> str:
        return f"nothing was changed: {'; '.join(self.reasons)}"


class SettingError(PolkuError):
    """Say which option or environment variable is wrong, its value, and what is allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(name, value, allowed)
        self.name = name
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.name}={self.value!r}: {self.allowed}"


class RecordError(PolkuError):
    """Refuse one record: its place in the input (1-based `line`, byte `offset`), its id if known, and why.

    Ingestors yield instances of it between events; validators and gateways turn it into an `AckError`.
    """

    def __init__(
        self,
        message: str,
        *,
        event_id: str = "",
        code: Code = Code.INVALID_RECORD,
        line: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.event_id = event_id
        self.code = code
        self.line = line
        self.offset = offset

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"event_id": self.event_id, "code": self.code, "line": self.line, "offset": self.offset}
        return _restore, (type(self), (self.message,), fields)

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class InputError(PolkuError):
    """Refuse a whole message of the input with one of the documented codes."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


class EmitError(PolkuError):
    """Say that a destination did not take events; `retry_after` is in seconds where it named a time."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), (self.message,), {"retry_after": self.retry_after})


class RetryableError(EmitError):
    """Say that the same events may be taken later."""


class RejectedError(EmitError):
    """Say that the destination will never take these events as they are."""


class MisconfiguredError(EmitError):
    """Say that nothing will be taken until credentials, address or rights are mended."""


class JournalError(PolkuError):
    """Say which file on disk cannot be used, and why; `what` is what stands in it."""

    what = "journal"

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} {self.path}: {self.reason}"


class JournalLockedError(JournalError):
    """Say which process has the journal open: `other` is the name that it uses, where that is another one.

    With a `host` that process has taken the journal over, and this one can write it no more.
    """

    def __init__(self, path: object, pid: str, *, other: str = "", host: str = "") -> None:
        name = f" as {other}, which is the same file" if other else ""
        reason = f"process {pid} has it open{name}; stop that one first, or choose another path"
        if host:
            reason = f"process {pid} on {host} has taken it over, and nothing more is written here; stop one of the two"
        super().__init__(path, reason)
        self.pid = pid
        self.other = other
        self.host = host

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), (self.path, self.pid), {"other": self.other, "host": self.host})


class JournalPathError(JournalError):
    """Say why a path, or the disk that it is on, can never have a journal."""


class JournalCorruptError(JournalError):
    """Say what of a journal cannot be read."""


class UserCodeError(PolkuError):
    """Stand for an exception of user code that is no `Exception`; `__cause__` is that one, where it was not pickled."""


class PipelineError(PolkuError):
    """Say that the pipeline cannot take events now."""


class UnavailableError(PipelineError):
    """Say that a part of the pipeline does not answer; whether it took the events is unknown.

    `died` says that it is known to have died on them, or on others that were in flight at the same time.
    """

    def __init__(self, message: str, *, died: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.died = died

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), (self.message,), {"died": self.died})


class PastLifeError(UnavailableError):
    """Say that the receiver has heard from another life of the sender; a sender that lives takes a higher epoch."""

    def __init__(self, message: str, *, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), (self.message,), {"epoch": self.epoch})


class DrainingError(PipelineError):
    """Say that the pipeline is stopping and takes nothing new."""


class NotRunningError(PipelineError):
    """Say that the pipeline was not started, or has stopped."""


def _restore(kind: type[PolkuError], arguments: tuple[object, ...], fields: dict[str, object]) -> PolkuError:
    return kind(*arguments, **fields)
