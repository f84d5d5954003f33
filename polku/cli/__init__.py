"""The `polku` command."""

from __future__ import annotations

import sys

from polku.errors import JournalError, PlanError, SettingError
from polku.serving import say

__all__ = ["main"]


def main() -> None:
    """Run the command line; wrong input ends it with status 2 and one line that names what is wrong."""
    try:
        if sys.argv[1:] == ["serve"]:
            from polku.cli.serve import serve_environment

            serve_environment()
        else:
            from polku.cli import app

            app.main()
    except (SettingError, PlanError, JournalError) as error:
        say(f"polku: {error}")
        sys.exit(2)
