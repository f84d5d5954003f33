"""A certificate authority for tests, made with the `openssl` program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pair(NamedTuple):
    """The PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Sign certificates for `localhost` and 127.0.0.1; skips the test where there is no `openssl`."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl to make a certificate with")
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._name = name
        files = ("-keyout", str(self._key), "-out", str(self.cert))
        _openssl("req", "-x509", *_EC, "-days", "40", "-subj", f"/CN={name}", *files)

    def issue(self, name: str = "server", *, days: int = 30, uri: str = "") -> Pair:
        """Return the files of a new certificate and its key; with less than 0 `days` it has expired.

        A `uri` stands among its alternative names, as a SPIFFE id does.
        """
        stem = self._folder / f"{self._name}-{name}"
        cert, key, request, extensions = (stem.with_suffix(end) for end in (".pem", ".key", ".csr", ".ext"))
        more = f",URI:{uri}" if uri else ""
        extensions.write_text(f"subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1{more}\n")
        _openssl("req", "-new", *_EC, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        signer = ("-CA", str(self.cert), "-CAkey", str(self._key), "-CAcreateserial", "-days", str(days))
        _openssl("x509", "-req", "-in", str(request), *signer, "-extfile", str(extensions), "-out", str(cert))
        return Pair(cert, key)


def put(pair: Pair, folder: Path) -> Pair:
    """Return copies of a certificate and its key, under names that stay when `replace` changes the files."""
    used = Pair(folder / "tls.crt", folder / "tls.key")
    replace(pair, used)
    return used


def replace(pair: Pair, used: Pair) -> None:
    """Put other files in place of those that are used, each at once."""
    for new, path in zip(pair, used, strict=True):
        aside = path.with_suffix(".new")
        shutil.copy(new, aside)
        os.replace(aside, path)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=240)
