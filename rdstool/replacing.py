"""Files that others may open while they are written: they find what was there before or all of the new, never half."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory


def put(path: Path, content: bytes, mode: int = 0o644, modified_ns: int | None = None) -> None:
    """Write a file in place of ``path``, whose folder exists; ``modified_ns`` is the time that it is to bear.

    Raises ``OSError`` where it cannot be written; then, and where this is interrupted, ``path`` is as before.
    """
    # A folder of its own, for several processes, or threads, may put the same file there at once.
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        aside = Path(folder) / path.name
        aside.write_bytes(content)
        aside.chmod(mode)
        if modified_ns is not None:
            os.utime(aside, ns=(modified_ns, modified_ns))
        aside.replace(path)
