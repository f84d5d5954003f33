"""PEM for a library that reads files alone, where nothing of it need be on a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack


class PemFiles:
    """Hold texts as files of this user's alone, until `close`: in memory on Linux, else in a folder of their own."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self._held = ExitStack()
        self._folder = ""
        self.paths = {name: self._write(name, content) for name, content in contents.items()}

    def close(self) -> None:
        """Remove them."""
        self._held.close()

    def _write(self, name: str, content: bytes) -> str:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create(f"polku-{name}")
            self._held.callback(os.close, descriptor)
            os.fchmod(descriptor, 0o600)
            path = f"/proc/self/fd/{descriptor}"
        else:
            import tempfile  # for who has certificates: a gateway is ready sooner

            self._folder = self._folder or self._held.enter_context(tempfile.TemporaryDirectory())
            path = os.path.join(self._folder, name)
        with open(path, "wb") as file:
            file.write(content)
        return path
