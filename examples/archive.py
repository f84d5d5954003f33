"""An archive in an object store: compressed objects by tenant and day, and nothing acknowledged is lost on the way.

    polku run examples/archive.py --runtime inline

ARCHIVE says where it is: `s3://bucket/prefix`, `gs://…`, `az://…`, or by default the folder `archive`. Events wait in a
journal until the object that has them is complete: a minute after its first event, at 32 MB, or at the end. An event
whose tenant is not known goes to the tenant `none`.
"""

from __future__ import annotations

import os
from pathlib import Path

from polku import BufferStrategy, Hub, S3Emitter

FOLDER = Path(os.environ.get("FOLDER", ".")).absolute()

hub = (
    Hub()
    .buffer_strategy(BufferStrategy.durable(FOLDER / "archive.db"))
    .emitter(
        S3Emitter(
            os.environ.get("ARCHIVE") or (FOLDER / "archive").as_uri(),
            key="tenant={metadata.tenant|none}/date={date}/{batch}",
            compression="zstd",
            name="archive",
        )
    )
)
