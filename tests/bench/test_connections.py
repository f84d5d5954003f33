"""The benchmark of many connections holds as many as it is asked for, however few descriptors a port may have."""

from __future__ import annotations

import re
import subprocess
import sys


def test_idle_connections_are_divided_among_ports_where_one_may_not_have_them_all() -> None:
    bench = f"{sys.executable} -m tests.bench.connections --idle 100 --churn 1"
    command = ["sh", "-c", f"ulimit -n 200 && exec {bench}"]  # 75 connections to a port
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 ports, for up to 75 connections each\n100 idle connections: ")
    assert re.search(r"\nafter [1-9]\d* connections that came and went: ", done.stdout)
    assert "calls that failed: 0" in done.stdout
