"""An S3 endpoint for tests: moto's server in a process of its own, which can be killed and comes back empty."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from functools import cached_property
from typing import Any

from tests.support.ports import free_port

KEYS = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "secret", "region": "us-east-1"}


class S3Server:
    """A running endpoint with one bucket, `events`."""

    def __init__(self, **environment: str) -> None:
        self.environment = {**os.environ, **environment}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.options = {**KEYS, "endpoint": self.url}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self, *, bucket: bool = True) -> None:
        """Start it, on the same port as ever."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment
        )
        deadline = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < deadline, "moto's server does not answer"
            time.sleep(0.05)
        if bucket:
            self.client().create_bucket(Bucket="events")

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @cached_property
    def _client(self) -> Any:
        """It reads what is known of S3: a tenth of a second of processor time."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEYS["access_key_id"],
            aws_secret_access_key=KEYS["secret_access_key"],
        )

    def client(self) -> Any:
        """Return a client that is not the emitter's."""
        return self._client

    def objects(self) -> dict[str, bytes]:
        """Return everything in the bucket."""
        client = self.client()
        found = client.list_objects_v2(Bucket="events").get("Contents", [])
        return {item["Key"]: client.get_object(Bucket="events", Key=item["Key"])["Body"].read() for item in found}

    def post(self, path: str, data: bytes = b"") -> None:
        """Tell the server how to behave (moto's own interface)."""
        urllib.request.urlopen(f"{self.url}{path}", data, timeout=30).read()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=1).read()
        except OSError:
            return False
        return True
