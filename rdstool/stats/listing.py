"""Results as lines: each record of the sections as JSON, and ``--acks``, each message with its acknowledgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from json import JSONEncoder
from operator import attrgetter
from typing import Any

from rdstool.capture.streams import StreamTable
from rdstool.stats.acks import Outcome, Sent
from rdstool.stats.model import CaptureStats

HEADING = "number,frame,stream,direction,path,acked_frame,latency,outcome\n"


def record_lines(stats: CaptureStats, sections: Sequence[str]) -> Iterator[str]:
    """A line of JSON for each record: the name of its section first, then the fields of its dataclass."""
    encode = JSONEncoder(ensure_ascii=False, check_circular=False, default=_fields_of).encode
    for name in sections:
        head = f'{{"section": "{name}", '
        for record in stats.section(name):
            yield f"{head}{encode(record)[1:]}\n"


def _fields_of(record: Any) -> dict[str, Any]:
    """A record as a dictionary, with the records in it as they are."""
    names, get = _reader(record.__class__)
    return dict(zip(names, get(record), strict=True))


@cache
def _reader(kind: Any) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """Names of a dataclass's fields, two at least, and what reads all of them at once."""
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)


def ack_lines(sent: Sent, streams: StreamTable, *, json: bool) -> Iterator[str]:
    """Lines for messages: CSV under ``HEADING``, or JSON with the same names. Latency in seconds.

    They come in the order in which acknowledgements were seen, batch by batch; ``number`` is that of ``decode``.
    ``path`` is empty (null) where it is not known. ``latency`` is given only where the outcome is ``measured``.
    """
    line = _json_line if json else _csv_line
    columns = (sent.number, sent.frame, sent.lane, sent.time, sent.acked_frame, sent.acked_time, sent.outcome)
    for number, frame, lane, time, acked_frame, acked_time, outcome in zip(
        *(column.tolist() for column in columns), strict=True
    ):
        latency = (acked_time - time) / 1e9 if outcome == Outcome.MEASURED else None
        path = streams[lane >> 1].path
        yield line(
            number, frame, lane >> 1, lane & 1, path if path >= 0 else None, acked_frame or None, latency, outcome
        )


def _csv_line(*values: Any) -> str:
    *plain, latency, outcome = values
    cells = ["" if value is None else str(value) for value in plain]
    return ",".join((*cells, "" if latency is None else f"{latency:.9f}", _WORDS[outcome])) + "\n"


def _json_line(*values: Any) -> str:
    *plain, latency, outcome = values
    number, frame, stream, direction, path, acked_frame = ("null" if value is None else value for value in plain)
    return (
        f'{{"number": {number}, "frame": {frame}, "stream": {stream}, "direction": {direction}, "path": {path}, '
        f'"acked_frame": {acked_frame}, "latency": {"null" if latency is None else f"{latency:.9f}"}, '
        f'"outcome": "{_WORDS[outcome]}"}}\n'
    )


_WORDS: dict[int, str] = {int(outcome): outcome.words for outcome in Outcome}
