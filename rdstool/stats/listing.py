"""Results as lines: each record of the sections as JSON, and ``--acks``, each message with its acknowledgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import cache
from json import JSONEncoder
from operator import attrgetter
from typing import Any, NamedTuple

from rdstool.capture.columns import NS_PER_S
from rdstool.capture.streams import StreamTable
from rdstool.stats.acks import Outcome, Sent
from rdstool.stats.model import CaptureStats


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


class _Ack(NamedTuple):
    """A message and how it was acknowledged: one line of ``--acks``."""

    number: int
    frame: int
    stream: int
    direction: int
    path: int | None
    acked_frame: int | None
    latency: float | None
    outcome: str


HEADING = ",".join(_Ack._fields) + "\n"


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
        stream, direction = lane >> 1, lane & 1
        path = streams[stream].path
        latency = (acked_time - time) / NS_PER_S if outcome == Outcome.MEASURED else None
        yield line(
            _Ack(
                number,
                frame,
                stream,
                direction,
                path if path >= 0 else None,
                acked_frame or None,
                latency,
                _WORDS[outcome],
            )
        )


def _csv_line(ack: _Ack) -> str:
    path = "" if ack.path is None else ack.path
    acked_frame = ack.acked_frame or ""
    latency = "" if ack.latency is None else f"{ack.latency:.9f}"
    return f"{ack.number},{ack.frame},{ack.stream},{ack.direction},{path},{acked_frame},{latency},{ack.outcome}\n"


def _json_line(ack: _Ack) -> str:
    path = "null" if ack.path is None else ack.path
    latency = "null" if ack.latency is None else f"{ack.latency:.9f}"
    return (
        f'{{"number": {ack.number}, "frame": {ack.frame}, "stream": {ack.stream}, "direction": {ack.direction}, '
        f'"path": {path}, "acked_frame": {ack.acked_frame or "null"}, "latency": {latency}, '
        f'"outcome": "{ack.outcome}"}}\n'
    )


_WORDS: dict[int, str] = {int(outcome): outcome.words for outcome in Outcome}
