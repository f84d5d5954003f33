"""Write what the workers log as they wrote it: Ray puts a name before each line, and joins lines that are alike."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from polku.log_format import as_object, is_json


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


def _write(data: Mapping[str, Any]) -> None:
    if data.get("pid") == "autoscaler":  # Ray shows none of its lines either
        return
    pid = str(data.get("pid"))
    about = {"actor": data.get("actor_name"), "pid": int(pid) if pid.isdigit() else pid, "node": data.get("ip")}
    known = {name: value for name, value in about.items() if value}
    for line in data.get("lines", ()):
        is_object = line.startswith('{"time": ')
        print(line if is_object else as_object(line, "info", "worker", **known), file=sys.stderr, flush=True)
