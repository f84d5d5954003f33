"""What bare nodes of Ray have for agents: a program that does nothing and ends with its node, which needs it alive."""

from __future__ import annotations

import os
import time


def main() -> None:
    """Wait for the end of the process that has started this one."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1)


if __name__ == "__main__":
    main()
