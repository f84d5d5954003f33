"""A mirror in a process of its own, which commits what the other topic has: to be killed by a test.

`python -m tests.kafka.mirror_program BOOTSTRAP TOPIC OTHER CONFIG`, the last the source's properties as JSON
"""

from __future__ import annotations

import json
import sys
import time

from tests.kafka.mirror import mirror

bootstrap, topic, other, config = sys.argv[1:]
with mirror(bootstrap, topic, other, config=json.loads(config)).ack("delivered").start():
    print("ready", flush=True)
    while True:
        time.sleep(1)
