"""The pipeline of {{name}}: what is done with the events that come in, and where they go."""

import os

from polku import BufferStrategy, Filter, Hub, StdoutEmitter, Transform, WebhookEmitter


def is_wanted(event):
    return not event.event_type.startswith("debug.")


def mark(event):
    event.metadata["gateway"] = "{{name}}"


def build(emitter, journal=None):
    """Return the pipeline to a destination; with a journal, a file, it survives a crash."""
    hub = Hub(name="{{name}}").middleware(Filter(is_wanted)).middleware(Transform(mark))
    if journal:
        hub.buffer_strategy(BufferStrategy.durable(journal))
    return hub.emitter(emitter, name="destination")


DESTINATION = os.environ.get("DESTINATION")  # a URL that takes events as JSON; without it they are printed
hub = build(WebhookEmitter(DESTINATION) if DESTINATION else StdoutEmitter(), os.environ.get("JOURNAL"))
