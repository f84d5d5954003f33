"""What a command shows to the address that it goes to, and whom it trusts there: the same options everywhere."""

from __future__ import annotations

import os
import ssl
from typing import Annotated, NamedTuple

from polku.cli.command import Option, Options
from polku.errors import SettingError
from polku.security.configuration import FILE, secret_of


class Credentials(NamedTuple):
    """The paths of PEM files, for addresses with `https://`, and of one with a bearer token."""

    root_certificates: Annotated[
        str | None, Option(metavar="PEM", help="With https: who signs the server's certificate.")
    ] = None
    certificate: Annotated[str | None, Option(metavar="PEM", help="With https: your own certificate.")] = None
    key: Annotated[str | None, Option(metavar="PEM", help="Its private key.")] = None
    token_file: Annotated[str | None, Option(metavar="FILE", help="Your bearer token.")] = None

    def files(self) -> dict[str, str]:
        """Return the PEM files by their options; raises `SettingError` for half of a pair."""
        if (self.certificate is None) != (self.key is None):
            option, path = ("--certificate", self.certificate) if self.key is None else ("--key", self.key)
            raise SettingError(option, path, "give --certificate and --key together")
        named = {"--root-certificates": self.root_certificates, "--certificate": self.certificate, "--key": self.key}
        return {option: path for option, path in named.items() if path is not None}

    def refuse_plain(self, url: str) -> None:
        """Raise `SettingError` where there is something for TLS, which an address does not speak."""
        for option, path in self.files().items():
            raise SettingError(option, path, f"is for TLS: write --to {url}")

    def refuse_file(self, path: object) -> None:
        """Raise `SettingError` where there is something to show, and a file is looked into instead of an address."""
        for name, value in self._asdict().items():
            if value is not None:
                option = f"--{name.replace('_', '-')}"
                raise SettingError(option, value, f"is for an address, and {path} is a file: leave it out")

    def token(self, variable: str) -> str | None:
        """Return the token of the option, or else of a variable (or its `_FILE`); raises `SettingError`."""
        environment = os.environ if self.token_file is None else {variable + FILE: self.token_file}
        return secret_of(environment, variable)

    def with_environment(self, prefix: str) -> Credentials:
        """Return these, with a pair that variables name where the options name none; raises `SettingError`."""
        if self.certificate is not None or self.key is not None:
            return self
        return self._replace(certificate=os.environ.get(f"{prefix}_CERTIFICATE"), key=os.environ.get(f"{prefix}_KEY"))

    def show(self, context: ssl.SSLContext) -> None:
        """Have a connection show the certificate, if there is one; raises `SettingError`."""
        if "--certificate" not in self.files():
            return
        try:
            context.load_cert_chain(str(self.certificate), self.key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            fix = "name a PEM file, and with --key that of its key, without a passphrase"
            raise SettingError("--certificate", self.certificate, f"cannot be used ({reason}); {fix}") from None


Shown = Annotated[Credentials, Options()]
NOTHING = Credentials()


def _no_passphrase() -> str:
    """Instead of asking for it at the terminal."""
    raise ValueError("the key is protected by a passphrase")
