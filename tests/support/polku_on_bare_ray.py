"""The `polku` command, with a Ray that is bare and forks its workers where it starts one: `python -m` this module.

`BARE_LOGS=1` keeps the log monitor, which brings the lines of workers.
"""

from __future__ import annotations

import os

from tests.support.ray_forks import forked_workers


def main() -> None:
    from polku.cli import main as polku

    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    settings = {"include_log_monitor": True} if os.environ.get("BARE_LOGS") else {}
    with forked_workers(**settings):
        polku()


if __name__ == "__main__":
    main()
