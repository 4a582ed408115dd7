"""From capture files to numbered messages: the stages of this package joined, in this process or in several."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from rdstool.capture.limits import MAX_PROCESSES
from rdstool.capture.reading import Reading, read_here
from rdstool.capture.stages import CaptureOptions, Decoded, Joining, Ordering, Reach, Stages, Step
from rdstool.capture.streams import StreamTable
from rdstool.errors import CaptureError

__all__ = ["CaptureOptions", "Decoded", "Step", "decode"]


def decode(paths: tuple[str, ...], options: CaptureOptions, streams: StreamTable) -> Generator[Step]:
    """Decode from the beginning, one chunk at a time, and enter what is found into ``streams``.

    Raises ``CaptureError`` where a file is bad, after all that could be read was yielded.
    """
    if options.jobs > 1:
        options = replace(options, jobs=min(options.jobs, MAX_PROCESSES))
        from rdstool.capture.sharing import decode_shared, files_to_share  # noqa: PLC0415 - one process does without

        files = files_to_share(paths, options)
        if files is not None:
            return decode_shared(files, options, streams)
    reading = Reading(paths, options.tcp_ports, options.tcp_checksums, options.follow, options.chunk_bytes)
    return _decode_here(reading, options, streams)


def _decode_here(reading: Reading, options: CaptureOptions, streams: StreamTable) -> Generator[Step]:
    joining, stages, ordering = Joining(options), Stages(options, streams), Ordering(streams)
    problem: CaptureError | None = None
    with closing(read_here(reading)) as chunks:
        while problem is None:
            try:
                parsed, about = next(chunks)
            except StopIteration:
                break
            except CaptureError as error:
                problem = error
            else:
                more = joining.feed(parsed.fragments, about.counts)
                if more is not None:
                    parsed = parsed.joined(more)
                yield ordering.step(*stages.feed(parsed, Reach.of(parsed)), about)
    yield ordering.step(stages.finish(), None, None)
    if problem is not None:
        raise problem
