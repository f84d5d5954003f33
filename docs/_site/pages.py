"""What the pages need on a site, beyond how they read in the repository.

Links to files of the repository become their paths, as the site stands alone; and the first page gets the contents.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

CONTENTS = """
```{toctree}
:hidden:
:caption: Use

tour
components
http-and-grpc
kafka
redis
nats
otlp
object-stores
postgres
files
schedules
ahti
plugins
own-components
models
ray-applications
testing
recipes
```

```{toctree}
:hidden:
:caption: Run

install
guarantees
operations
changing
monitoring
deployment
scaling
security
benchmarks
```

```{toctree}
:hidden:
:caption: Reference

reference/api
reference/testing
reference/plugin
reference/commands
reference/settings
internals
why-our-own-server
```
"""
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Have each page read as the site needs it."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = _OUTSIDE.sub(_path, source[0])
    if name == "index":
        source[0] += CONTENTS


def _path(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"
