"""Reading captures with one process and with several, and all that either tells, to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rdstool.capture.events import Event
from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.capture.sharing import files_to_share
from rdstool.errors import CaptureError
from rdstool.validate.rule import Finding
from rdstool.validate.validator import Validator

CHUNK_BYTES = 128 << 10
"""So short that a test's capture has many chunks."""


def options(jobs: int, chunk_bytes: int = CHUNK_BYTES, **more: Any) -> CaptureOptions:
    """How to read a capture with so many processes, in short chunks."""
    return CaptureOptions(jobs=jobs, chunk_bytes=chunk_bytes, **more)


def is_shared(*paths: str, jobs: int = 2, **more: Any) -> bool:
    """Tell whether several processes read these files."""
    files = files_to_share(paths, options(jobs, **more))
    if files is not None:
        files.close()
    return files is not None


def all_of(paths: Sequence[str], how: CaptureOptions) -> dict[str, Any]:
    """Everything that reading tells, and the error that ends it."""
    rows, acks, fragments, consumed = [], [], [], []
    beside: list[Any] = []
    events: list[Event] = []
    findings: list[Finding] = []
    problem = None
    with open_capture(paths, how) as capture:
        validator = Validator(capture)
        try:
            for decoded in capture.batches():
                batch = decoded.messages
                rows.append(batch.rows)
                for by_row in (batch.payloads, batch.digests, batch.rdma):
                    beside += sorted(by_row.items())
                acks.append(decoded.acks)
                fragments.append(decoded.fragments)
                consumed.append(decoded.consumed)
                events += decoded.events
                findings += validator.feed(decoded)
        except CaptureError as error:
            problem = str(error), error.position
        findings += validator.finish(reread=False)
    return {
        "messages": np.concatenate(rows).tobytes(),
        "beside": beside,
        "acks": np.concatenate(acks).tobytes(),
        "fragments": np.concatenate(fragments).tobytes(),
        "consumed": consumed,
        "events": events,
        "findings": findings,
        "streams": capture.streams.streams,
        "passed over": capture.streams.passed_over,
        "frames": capture.frames,
        "label": capture.frame_label(capture.frames.frames),
        "problem": problem,
    }
