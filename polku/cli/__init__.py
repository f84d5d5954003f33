"""The `polku` command."""

from __future__ import annotations

import sys

from polku.cycles import collect_cycles_seldom
from polku.errors import JournalError, PipelineError, PlanError, SettingError
from polku.log_format import say

__all__ = ["main"]


def main() -> None:
    """Run the command line; wrong input ends it with status 2 and one line that names what is wrong.

    Status 1 is that of what cannot be had now, such as a Ray that does not answer.
    """
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
        sys.exit(2)
    except PipelineError as error:
        say(f"polku: {error}", level="error")
        sys.exit(1)
