"""Hold what two decoders say about one capture against each other, field by field."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import MESSAGE
from rdstool.capture.decoding import Decoded
from rdstool.capture.events import CmMessage, Event, RdmaOperation
from rdstool.capture.gather import joined
from rdstool.capture.pipeline import Capture
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.paths import PathMap
from rdstool.export.jsonl import event_line, message_lines
from rdstool.field_columns import MessageColumns
from rdstool.validate.alone import ALONE
from rdstool.validate.registry import RULES
from rdstool.validate.validator import Validator

NAMES = ("rdstool", "tshark")
"""Which decoder an object is from."""
MAX_FINDINGS = 1_000_000
"""Findings of one rule that are compared."""
_NUMBERED = ("number", "stream")
"""Numbers that decoders give by themselves; streams are compared by their ends."""


class Source(Protocol):
    """A capture, whoever decodes it."""

    streams: StreamTable

    def batches(self) -> Iterator[Decoded]:
        """Yield the whole of it as one batch."""
        ...


Key = tuple[Any, ...]
"""Which message it is: stream, direction, place in the stream, frame."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one message that the decoders see differently; None where one of them lacks the message."""

    frame: int
    what: str
    """The message in words."""
    field: str
    """Its key in JSON; ``message`` for the whole of it, ``findings`` for how often a rule is broken in the frame."""
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        if self.field == "message":
            only = NAMES[0] if self.ours else NAMES[1]
            return f"frame {self.frame}: {self.what}: only {only} sees it"
        return (
            f"frame {self.frame}: {self.what}: {self.field} is {_shown(self.ours)} to {NAMES[0]}, "
            f"{_shown(self.theirs)} to {NAMES[1]}"
        )


def _shown(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def objects(source: Source) -> dict[Key, dict[str, Any]]:
    """Each message, RDMA operation and RDMA-CM message as its JSON object, by what identifies it.

    Messages have all bytes of their header.
    """
    seen = _Seen()
    for decoded in source.batches():
        seen.enter(decoded, source.streams)
    return seen.settled(source.streams)


def natively(capture: Capture) -> tuple[dict[Key, dict[str, Any]], Counter[tuple[int, str]]]:
    """What :func:`objects` gives, and (frame, rule) -> how often a rule that the plugin checks too is broken there."""
    validator = Validator(capture, [rule for rule in RULES if rule.id in ALONE], limit=MAX_FINDINGS)
    seen = _Seen()
    findings: Counter[tuple[int, str]] = Counter()
    for decoded in capture.batches():
        seen.enter(decoded, capture.streams)
        findings.update((finding.frame, finding.rule) for finding in validator.feed(decoded))
    findings.update((finding.frame, finding.rule) for finding in validator.finish())
    return seen.settled(capture.streams), findings


@dataclass(slots=True)
class _Seen:
    """All messages of a capture."""

    items: list[tuple[Key, dict[str, Any]]] = field(default_factory=list)
    """Each with its direction, place and frame, or with what tells a message of RDMA-CM."""
    rows: list[NDArray[Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def enter(self, decoded: Decoded, streams: StreamTable) -> None:
        """Take one batch."""
        rows = decoded.messages.rows
        columns = MessageColumns(decoded.messages, streams)
        places = (rows[name].tolist() for name in ("direction", "position", "frame"))
        lines = message_lines(columns, np.arange(columns.count))
        for index, (*place, line) in enumerate(zip(*places, lines, strict=True)):
            item = json.loads(line)
            item["first_frame"] = int(rows["first_frame"][index])
            item["header"] = rows["header"][index].tobytes().hex()
            self.items.append((tuple(place), item))
        for event in decoded.events:
            if isinstance(event, CmMessage):
                item = json.loads(event_line(event, streams))
                self.items.append((("cm", event.frame, item["message"], item["src"]), item))
            elif isinstance(event, RdmaOperation):
                item = json.loads(event_line(event, streams))
                item["first_frame"] = event.first_frame
                self.items.append(((event.direction, "rdma", event.psn), item))
        self.rows.append(rows)
        self.events += decoded.events

    def settled(self, streams: StreamTable) -> dict[Key, dict[str, Any]]:
        """The messages, with their streams as these are known at the end.

        A path is told as far as it was known when its message was, and who reads more at a time knows more: it is
        inferred anew, of all messages.
        """
        rows = joined(self.rows, MESSAGE)
        rows = rows.take(np.lexsort((rows["position"], rows["frame"])))
        if len(rows) or self.events:
            PathMap(streams).observe(rows, sorted(self.events, key=lambda event: event.frame))
        names = _stream_names(streams)
        found: dict[Key, dict[str, Any]] = {}
        for place, item in self.items:
            stream = item["stream"]
            if item["kind"] == "cm":
                _enter(found, place, item)
            else:
                item["path"] = streams[stream].path
                _enter(found, (*names[stream], *place), item)
        return found


def _enter(found: dict[Key, dict[str, Any]], key: Key, item: dict[str, Any]) -> None:
    """A copy of what was entered already gets a key of its own."""
    for name in _NUMBERED:
        del item[name]
    copy = 0
    while (*key, copy) in found:
        copy += 1
    found[*key, copy] = item


def _stream_names(streams: StreamTable) -> dict[int, Key]:
    """Streams by their ends, and which use of these ends it is, in the order of frames."""
    uses: dict[Key, int] = defaultdict(int)
    names: dict[int, Key] = {}
    for stream in sorted(streams.streams, key=lambda stream: (stream.first_frame, stream.number)):
        ends = (stream.transport.label, stream.a.host, stream.a.port, stream.b.host, stream.b.port)
        names[stream.number] = (*ends, uses[ends])
        uses[ends] += 1
    return names


def differences(ours: dict[Key, dict[str, Any]], theirs: dict[Key, dict[str, Any]]) -> list[Difference]:
    """Every field that differs, in the order of frames."""
    found: list[Difference] = []
    for key in ours.keys() | theirs.keys():
        one, other = ours.get(key), theirs.get(key)
        item = one or other or {}
        what = _words(item)
        if one is None or other is None:
            found.append(Difference(item["frame"], what, "message", one is not None or None, other is not None or None))
            continue
        found += [
            Difference(one["frame"], what, name, one.get(name), other.get(name))
            for name in one.keys() | other.keys()
            if one.get(name) != other.get(name)
        ]
    return sorted(found, key=lambda difference: (difference.frame, difference.what, difference.field))


def finding_differences(ours: Counter[tuple[int, str]], theirs: Counter[tuple[int, str]]) -> list[Difference]:
    """Every rule that is told of a frame by one of them more often than by the other, in the order of frames."""
    return [
        Difference(frame, rule, "findings", ours[frame, rule], theirs[frame, rule])
        for frame, rule in sorted(ours.keys() | theirs.keys())
        if ours[frame, rule] != theirs[frame, rule]
    ]


def _words(item: dict[str, Any]) -> str:
    ends = f"{item['src']} > {item['dst']}"
    if item["kind"] == "cm":
        return f"{ends} RDMA-CM {item['message']}"
    if "rkey" in item:
        return f"{ends} {item['kind']} with R_Key {item['rkey']:#x}"
    return f"{ends} {item['kind']} {item['sport']} to {item['dport']}, sequence {item['sequence']}"
