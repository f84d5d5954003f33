"""What a command shows on a terminal."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

from tests.support.server import POLKU, environment


def shown_by(*arguments: str) -> str:
    """Run `polku` with a terminal, 120 columns wide, as its standard error, and return what that shows."""
    master, slave = os.openpty()
    variables = environment(TERM="xterm", COLUMNS="120")
    process = subprocess.Popen([*POLKU, *arguments], stdout=subprocess.DEVNULL, stderr=slave, env=variables)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the terminal is gone with the program
        while text := os.read(master, 65536):
            shown += text
    os.close(master)
    assert process.wait(120) == 0, shown
    return shown.decode()
