"""The live page: one HTML file, whose script and style are the only ones that a browser runs."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pkgutil import get_data

from msgspec import Struct


class Page(Struct, frozen=True):
    """The file, the policy that lets nothing but its own script and style run, and what tells it from another one."""

    body: bytes
    policy: str
    version: str


@functools.cache
def page() -> Page:
    """Return the page; it is read once."""
    # `importlib.resources` would load `pathlib`, `zipfile` and more: half a megabyte, for one file.
    body = get_data("polku.monitoring", "page.html") or b""
    rules = [
        "default-src 'none'",
        f"script-src {_hash(body, b'script')}",
        f"style-src {_hash(body, b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return Page(body, "; ".join(rules), hashlib.sha256(body).hexdigest()[:16])


def _hash(body: bytes, tag: bytes) -> str:
    """Return the hash of the one element of a kind, as a policy names it."""
    (content,) = re.findall(b"<" + tag + b">(.*?)</" + tag + b">", body, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
