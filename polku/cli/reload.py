"""`polku reload`: have a running pipeline load its file again. And what `polku run` does then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from polku.cli.admin_client import To, find, reason_of
from polku.cli.command import Exit
from polku.cli.credentials import NOTHING, Shown
from polku.cli.load import beside, modules_beside, send_by_value, split
from polku.errors import ChangeError
from polku.log_format import say

if TYPE_CHECKING:
    from polku.hub import Hub

_SECONDS = 120.0
_CHECK_SECONDS = 60.0


def reload(to: To = None, shown: Shown = NOTHING) -> None:
    """Have a running pipeline load its file again, and run what that says from then on, without a stop.

    Prints a line for each part that differs, or would. Exit status: 0, it runs so now; 1, nothing was changed, and a
    line says why, or the pipeline does not answer. It must have been started by `polku run`; SIGHUP asks for the same.
    """
    address = find(to, shown)
    try:
        _, body = address.fetch("/reload", seconds=_SECONDS, method="POST")
        answer = json.loads(body)
        lines, refused = answer["lines"], answer["refused"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"polku: {address.url}: it cannot be asked to reload: {reason_of(error)}")
        raise Exit(1) from None
    for line in lines:
        print(line)
    if refused:
        say(f"polku: {refused}")
        raise Exit(1)


def loading_again(file: str, load: Callable[[], Hub], runtime: str | None = None) -> Callable[[], Hub]:
    """Return what loads a pipeline's file again: in a process of its own first, which may fail in any way."""

    def load_again() -> Hub:
        _check(file, runtime)
        with beside(path := split(file)[0]):
            hub = load()
            send_by_value(path)
            return hub

    return load_again


def watching(file: str) -> Callable[[], object]:
    """Return what returns another value whenever the pipeline's file, or one that it has imported, has changed."""

    def look() -> object:
        return tuple((str(path), _version(path)) for path in _files(split(file)[0]))

    return look


def _check(file: str, runtime: str | None) -> None:
    """Raise `ChangeError` where another process cannot load the file and build its plan."""
    command = [sys.executable, "-m", "polku", "validate", file, *(("--runtime", runtime) if runtime else ())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ChangeError([f"{file} was not loaded within {_CHECK_SECONDS:g} s"]) from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line.removeprefix("polku: ") for line in lines if line.startswith("polku: ")]
        raise ChangeError([f"{file} cannot be loaded: {said[-1] if said else ' | '.join(lines[-2:])}"])


def _files(path: Path) -> Iterator[Path]:
    yield path
    for module in modules_beside(path.resolve().parent).values():
        if (file := Path(str(module.__file__))) != path:
            yield file


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # an editor is about to replace it
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
