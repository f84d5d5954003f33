"""The arguments of commands that build the plan of a Python file, and its hub as they ask for it."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from polku.cli.command import Argument, Option
from polku.cli.load import is_beside, split
from polku.cli.settings import RUNTIMES, check_lanes
from polku.errors import PolkuError, SettingError
from polku.text import line, said

File = Annotated[str, Argument(metavar="FILE[:NAME]", help="A Python file with a Hub (named `hub`, or NAME).")]
Runtime = Annotated[str | None, Option(help="ray or inline.")]
Chain = Annotated[bool, Option("--chain", help="Run each lane in one actor.")]
Lanes = Annotated[str | None, Option(metavar="N|per-node", help="Run N lanes side by side, or one on each node.")]


def load_plan_file(file: str, runtime: str | None, *, chain: bool = False, lanes: str | None = None) -> Any:
    """Return the hub of a file, in the arrangement that the options ask for; raises `SettingError`."""
    from polku.cli.load import load_hub

    if runtime is not None and runtime not in RUNTIMES:
        raise SettingError("--runtime", runtime, f"choose one of {', '.join(RUNTIMES)}")
    count = check_lanes("--lanes", lanes) if lanes is not None else None
    try:
        hub = load_hub(file, runtime=runtime)
    except PolkuError:
        raise
    except Exception as error:
        traceback.print_exception(error.with_traceback(_frames_from(error.__traceback__, split(file)[0])))
        place = _place(error, split(file)[0])
        text = line(error.msg) if isinstance(error, SyntaxError) else said(error)
        raise SettingError("FILE", file, f"raised {type(error).__name__} while it was run{place}: {text}") from None
    hub = hub.chain() if chain else hub
    return hub.lanes(count) if count is not None else hub


def _place(error: Exception, path: Path) -> str:
    """Return where in the user's files an error was raised, the last place of them: ` (line 3 of pipeline.py)`."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno))
    folder = path.resolve().parent
    own = [(file, number) for file, number in frames if is_beside(Path(file).resolve(), folder) and number]
    return f" (line {own[-1][1]} of {own[-1][0]})" if own else ""


def _frames_from(frames: TracebackType | None, path: Path) -> TracebackType | None:
    """Leave out what called the user's file; all of it where the file never ran (a syntax error)."""
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).resolve() != path.resolve():
        frames = frames.tb_next
    return frames
