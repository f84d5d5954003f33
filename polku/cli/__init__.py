"""The `polku` command."""

from __future__ import annotations

import errno
import os
import sys

from polku.cycles import collect_cycles_seldom
from polku.errors import JournalError, JournalLockedError, PipelineError, PlanError, SettingError
from polku.log_format import say

__all__ = ["main"]


def main() -> None:
    """Run the command line; wrong input ends it with status 2 and one line that names what is wrong.

    Status 1 is that of what cannot be had now, such as a Ray that does not answer.
    """
    _fill_standard_descriptors()
    collect_cycles_seldom()
    try:
        if sys.argv[1:] == ["serve"]:
            from polku.cli.serve import serve_environment

            serve_environment()
        else:
            from polku.cli import app

            app.main()
    except (SettingError, PlanError, JournalError) as error:
        say(f"polku: {error}", level="error")
        sys.exit(1 if isinstance(error, JournalLockedError) else 2)  # what a service manager had better try again
    except PipelineError as error:
        say(f"polku: {error}", level="error")
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        say(f"polku: {error}", level="error")
        sys.exit(1)


def _fill_standard_descriptors() -> None:
    """Give standard streams that are closed the null device, so that no file or socket gets their numbers.

    Libraries of other languages write to these numbers, and uvloop ends the process where it has to close one.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
