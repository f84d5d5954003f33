"""Write a plugin in Python: one function or class, and the rest is done.

```python
from polku.plugin import IngestorPlugin, new_event


def parse(data):
    for line in data.splitlines():
        yield new_event("log.line", payload=line)


IngestorPlugin(parse, sources="my-agent").run("127.0.0.1:9001")
```

A pipeline uses it as `.ingestor(ExternalIngestor("my-agent", "http://127.0.0.1:9001"))`. An `EmitterPlugin` takes what
`Hub.emitter` takes: a function of a batch, or an object with `emit(batch)`. Both may be sync (they run in threads) or
async (they run on the plugin's event loop).
"""

from __future__ import annotations

from polku.batch.batch import Batch
from polku.contracts import Failure, IngestContext
from polku.errors import RecordError, RejectedError, RetryableError
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.plugin.plugins import EmitterPlugin, IngestorPlugin
from polku.plugin.registration import Registration
from polku.plugin.running import RunningPlugin
from polku.security.client_tls import Certificate

__all__ = [
    "Batch",
    "Certificate",
    "EmitterPlugin",
    "Event",
    "Failure",
    "IngestContext",
    "IngestorPlugin",
    "RecordError",
    "Registration",
    "RejectedError",
    "RetryableError",
    "RunningPlugin",
    "new_event",
]
