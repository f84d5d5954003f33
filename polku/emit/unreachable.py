"""Say what to set where a destination cannot be reached for a reason that no attempt cures: its certificate, its name.

Clients say it each in their words: those of OpenSSL, Rustls, the resolvers of systems and of gRPC.
"""

from __future__ import annotations

import os
import re

from polku.emit.parts import FaultyPartError
from polku.errors import EmitError, MisconfiguredError, RejectedError
from polku.security.secret import Secret
from polku.text import line, redacted

_ADDRESSES = ("address", "endpoints", "url", "servers", "bootstrap_servers")
_NAME = re.compile(
    r"hostname mismatch|ip address mismatch|doesn't match|not valid for name|notvalidforname|"
    r"is not in the (?:certificate|peer)",
    re.IGNORECASE,
)
_EXPIRED = re.compile(r"certificate (?:has |is )?expired|expired certificate|not yet valid", re.IGNORECASE)
_UNTRUSTED = re.compile(
    r"certificate[ _]verify[ _]failed|self[- ]signed certificate|unable to get (?:local )?issuer|unknown ?issuer|"
    r"unknown (?:ca|authority)|invalid peer certificate",
    re.IGNORECASE,
)
_UNKNOWN_HOST = re.compile(
    r"name or service not known|nodename nor servname|no address associated|could not resolve host|"
    r"failed to (?:lookup|resolve) (?:address|host)|domain name not found|\[errno 11001\]",
    re.IGNORECASE,
)


def is_of_settings(error: Exception) -> bool:
    """Return whether nothing will be taken until a setting is another one, a certificate, or a name that is known."""
    if isinstance(error, MisconfiguredError):
        return True
    if isinstance(error, (RejectedError, FaultyPartError)) or not isinstance(error, (EmitError, OSError)):
        return False
    text = str(error)
    return any(words.search(text) for words in (_NAME, _EXPIRED, _UNTRUSTED, _UNKNOWN_HOST))


def explained(error: Exception, text: str, emitter: object) -> str:
    """Return what an error says, with the field, its value and what to write where it is of settings."""
    if not is_of_settings(error) or not (fix := _fix(text, emitter)):
        return text
    return line(f"{text}; {fix}", len(text) + 400)


def _fix(text: str, emitter: object) -> str:
    if _NAME.search(text):
        return f"{_address(emitter)}: the server's certificate is for other names; write one of those"
    if _EXPIRED.search(text):
        return f"{_address(emitter)}: the server's certificate is not valid at this time; renew it, or set the clock"
    if _UNTRUSTED.search(text):
        trusted = _trusted(getattr(emitter, "root_certificates", None))
        return f"{trusted} the authority of the server's certificate; name the PEM file that has it"
    if _UNKNOWN_HOST.search(text):
        return f"{_address(emitter)}: no host is known by that name; correct it, or have it known"
    return ""


def _trusted(roots: object) -> str:
    if roots is None:
        return "root_certificates=None: the system does not know"
    shown = repr(os.fspath(roots)) if isinstance(roots, (str, os.PathLike)) else "(bytes)"
    return f"root_certificates={shown} does not have"


def _address(emitter: object) -> str:
    """Return the field with the address of an emitter, and its value without what is secret in it."""
    for name in _ADDRESSES:
        value = getattr(emitter, name, None)
        if isinstance(value, Secret):
            return f"{name}=(a secret)"
        if isinstance(value, str) and value:
            return f"{name}={redacted(repr(value))}"
        if isinstance(value, (tuple, list)) and value and all(isinstance(one, str) for one in value):
            return f"{name}={redacted(repr(', '.join(value)))}"
    return "its address"
