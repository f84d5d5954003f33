"""What emitters in actors print, written to the standard output of the program that has started the pipeline."""

from __future__ import annotations

import asyncio
from typing import Any

import ray.exceptions

from polku.actors.attachment import Attachment
from polku.emit.console import UNWRITABLE, DirectConsole
from polku.errors import MisconfiguredError


async def write_console(emitter: Any, attachment: Attachment) -> None:
    """Write what an emitter prints to this program's standard output, and confirm it."""
    written, fault = 0, ""
    console = DirectConsole()  # its threads do not keep the program from ending
    while attachment.is_there:
        try:
            written, text = await emitter.next_output.remote(written, fault)
        except ray.exceptions.ActorDiedError:  # another has taken its place, or it is gone
            return
        except ray.exceptions.RayError:
            await asyncio.sleep(0.5)
            written, fault = 0, ""
            continue
        try:
            await console.write(text)
            fault = ""
        except MisconfiguredError as error:
            fault = str(error).removeprefix(UNWRITABLE)
