"""The commands of a terminal that `tests.support.forked` can fork, as programs that have it do so, and wait.

They are `polku`, `pytest` and `python FILE`; `python` with anything else is the interpreter itself.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import get_args

from tests.support.forked import Program, fork

_SHIM = """#!{python} -SIE
import marshal, os, signal, socket, struct, sys
if {program!r} == "python" and not (sys.argv[1:] and sys.argv[1].endswith(".py")):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])  # by its path it knows what is installed
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
asked = marshal.dumps(({program!r}, sys.argv[1:], dict(os.environ), os.getcwd()))
socket.send_fds(server, [struct.pack("=I", len(asked))], [0, 1, 2])
server.sendall(asked)
(pid,) = struct.unpack("=q", server.recv(8, socket.MSG_WAITALL))
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(pid, number))
(status,) = struct.unpack("=q", server.recv(8, socket.MSG_WAITALL))
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class Commands:
    """A folder with these commands in it, which lasts until it is closed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="polku-forked-"))
        path = str(self.folder / "socket")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        for program in get_args(Program):
            shim = self.folder / program
            shim.write_text(_SHIM.format(python=sys.executable, path=path, program=program))
            shim.chmod(0o755)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Take no more commands."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(30)
        self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_run, args=(connection,), daemon=True).start()


def _run(connection: socket.socket) -> None:
    """Have a command forked; tell its process, and later its exit status."""
    with connection, contextlib.suppress(BrokenPipeError):
        head, files, _, _ = socket.recv_fds(connection, 4, 3)
        size = struct.unpack("=I", head)[0]
        data = b""
        while len(data) < size:
            data += connection.recv(65536)
        program, arguments, environment, folder = marshal.loads(data)
        of_program = folder if program == "python" else os.path.dirname(sys.executable)
        process = fork(arguments, files, environment, folder, of_program, program=program)
        for file in files:
            os.close(file)
        connection.sendall(struct.pack("=q", process.pid))
        connection.sendall(struct.pack("=q", process.wait()))
