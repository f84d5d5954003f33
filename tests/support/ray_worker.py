"""What the tests' Ray starts as a worker: it has one forked from a process that has imported everything, and ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys

FORKS = "RAY_TEST_FORKS"
"""The environment variable that names the folder of the sockets: one for each job on each node.

What a worker belongs to is read from its environment while `ray` is imported.
"""
PROGRAM = "RAY_TEST_PROGRAM"
"""The environment variable that names what Ray would have run: this program does without installed packages."""
_NONE = "ffffffff"  # the job of the workers that a node starts before it has one


def main() -> None:
    """Hand over the command line, the environment and the standard files."""
    job = os.environ["RAY_JOB_ID"]
    if job == _NONE:
        become()
    path = os.path.join(os.environ[FORKS], f"{os.environ['RAY_RAYLET_PID']}-{job}")
    asked = json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    with reach(path) as connection:
        socket.send_fds(connection, [len(asked).to_bytes(4, "little")], [0, 1, 2])
        connection.sendall(asked)
        if not connection.recv(1):
            become()


def reach(path: str) -> socket.socket:
    """Return a connection to the process that forks this job's workers; it is started where there is none."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            connection.connect(path)
            return connection
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        import subprocess

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(64)
            number = listener.fileno()
            command = [sys.executable, "-m", "tests.support.ray_forks", str(number)]
            subprocess.Popen(command, pass_fds=[number], start_new_session=True)
        connection.connect(path)
        return connection


def become() -> None:
    """Run what Ray would have run."""
    os.execv(sys.executable, [sys.executable, os.environ[PROGRAM], *sys.argv[1:]])


if __name__ == "__main__":
    main()
