"""Write what the workers log as they wrote it: Ray puts a name before each line, and joins lines that are alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from polku.log_format import as_object, is_json

_RAY = "raylet"  # for Ray's own errors


def relay_as_json() -> None:
    """Let this program write the lines of the pipeline's workers as objects, where its own log is JSON.

    Lines that are none, such as those that user code prints, become the message of one. Ray has no public way to do
    so: without the one that is known, its lines stay as they are.
    """
    if not is_json():
        return
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private.ray_logging import global_worker_stdstream_dispatcher as streams

        streams.remove_handler("ray_print_logs")
        streams.remove_handler("polku")
        streams.add_handler("polku", _write)
    _take_errors(_write)


def keep_errors_off_output() -> None:
    """Have this program write to standard error what Ray says of processes that end: events may be on the output."""
    if is_json():
        return
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private.worker import print_to_stdstream as written

        if written.__module__ != __name__:  # it is Ray's own
            _take_errors(lambda data: written({**data, "is_err": True}, ignore_prefix=False))


def _take_errors(write: Callable[[Mapping[str, Any]], None]) -> None:
    """Write what Ray says to a program by itself, for which it has no handlers."""

    def print_to_stdstream(data: Mapping[str, Any], *options: object, **named: object) -> None:
        write(data)

    with contextlib.suppress(ImportError, AttributeError):
        from ray._private import worker

        if hasattr(worker, "print_to_stdstream"):
            setattr(worker, "print_to_stdstream", print_to_stdstream)  # noqa: B010 - it has another type


def _write(data: Mapping[str, Any]) -> None:
    if data.get("pid") == "autoscaler":  # Ray shows none of its lines either
        return
    pid = str(data.get("pid"))
    number = int(pid) if pid.isdigit() else "" if pid == _RAY else pid
    about = {"actor": data.get("actor_name"), "pid": number, "node": data.get("ip")}
    known = {name: value for name, value in about.items() if value}
    level, logger = ("warning", "ray") if pid == _RAY else ("info", "worker")
    for line in data.get("lines", ()):
        is_object = line.startswith('{"time": ')
        print(line if is_object else as_object(line, level, logger, **known), file=sys.stderr, flush=True)
