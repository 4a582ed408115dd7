"""Bring what the stream stages completed into capture order, number it, and hold back what is not settled."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import ACK, FRAGMENT, MESSAGE
from rdstool.capture.events import Event
from rdstool.capture.gather import joined
from rdstool.capture.part import Part

T = TypeVar("T")
_FOREVER = 1 << 62
"""More than there are frames."""


class Merger:
    """Orders parts by frame across all streams.

    A message behind a hole becomes complete late, when the hole is given up. Until then what other streams bring
    is held, so that numbers follow the frames whatever the size of the chunks.
    """

    def __init__(self) -> None:
        self._held = Part.empty()
        self._next_number = 1

    def merge(self, parts: Sequence[Part], settled: int | None) -> Part:
        """Return in capture order what stands before frame ``settled`` (None: everything), numbered."""
        held = self._held
        whole = _joined([held, *(part for part in parts if not _is_empty(part))])
        rows = whole.rows
        if len(rows):
            whole = _reordered(whole, np.lexsort((rows["position"], rows["direction"], rows["stream"], rows["frame"])))
        whole.events.sort(key=attrgetter("frame", "stream"))
        whole.fragments = _by_message(whole.fragments)
        whole.acks = whole.acks.take(np.argsort(whole.acks["frame"], kind="stable"))
        ready, self._held = (whole, Part.empty()) if settled is None else _cut(whole, settled)
        count = len(ready.rows)
        ready.rows["number"] = np.arange(self._next_number, self._next_number + count)
        self._next_number += count
        return ready


def _is_empty(part: Part) -> bool:
    return not (len(part.rows) or len(part.acks) or part.events or len(part.fragments))


def _joined(parts: list[Part]) -> Part:
    """One part made of several, with row indices shifted."""
    parts = [part for part in parts if not _is_empty(part)]
    if len(parts) == 1:
        return parts[0]
    whole = Part.empty()
    if not parts:
        return whole
    whole.rows = joined([part.rows for part in parts], MESSAGE)
    whole.acks = joined([part.acks for part in parts], ACK)
    whole.fragments = joined([part.fragments for part in parts], FRAGMENT)
    begin = at = 0
    for part in parts:
        whole.payloads |= _shifted(part.payloads, begin)
        whole.digests |= _shifted(part.digests, begin)
        whole.rdma |= _shifted(part.rdma, begin)
        whole.events += part.events
        of_message = whole.fragments["message"][at : at + len(part.fragments)]
        of_message[of_message >= 0] += begin
        at += len(part.fragments)
        begin += len(part.rows)
    return whole


def _shifted(items: dict[int, T], by: int) -> dict[int, T]:
    return {index + by: item for index, item in items.items()} if by else items


def _reordered(part: Part, order: NDArray[np.int64]) -> Part:
    """The part with row ``order[i]`` at place i."""
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    # `take` copies whole rows; an index copies field by field, which takes ten times as long.
    part.rows = part.rows.take(order)
    part.payloads = _renamed(part.payloads, place)
    part.digests = _renamed(part.digests, place)
    part.rdma = _renamed(part.rdma, place)
    if len(part.fragments):
        of_message = part.fragments["message"]
        known = of_message >= 0
        of_message[known] = place[of_message[known]]
    return part


def _by_message(fragments: NDArray[Any]) -> NDArray[Any]:
    """Frames of no message in the order of the capture, then message after message."""
    if not len(fragments):
        return fragments
    message, frame = fragments["message"], fragments["frame"]
    return fragments.take(np.argsort(np.where(message < 0, frame - _FOREVER, message), kind="stable"))


def _renamed(items: dict[int, T], place: NDArray[np.int64]) -> dict[int, T]:
    return {int(place[index]): item for index, item in items.items()}


def _cut(part: Part, frame: int) -> tuple[Part, Part]:
    """What stands before ``frame``, and the rest."""
    rows = part.rows
    at = int(np.searchsorted(rows["frame"], frame)) if len(rows) else 0
    acks = int(np.searchsorted(part.acks["frame"], frame))
    events = sum(1 for event in part.events if event.frame < frame)
    of_message = part.fragments["message"]
    early = np.where(of_message >= 0, of_message < at, part.fragments["frame"] < frame)
    return (
        _section(part, slice(0, at), slice(0, acks), part.events[:events], part.fragments.compress(early)),
        _section(part, slice(at, len(rows)), slice(acks, None), part.events[events:], part.fragments.compress(~early)),
    )


def _section(part: Part, rows: slice, acks: slice, events: list[Event], fragments: NDArray[Any]) -> Part:
    begin, end = rows.start, rows.stop

    def within(items: dict[int, T]) -> dict[int, T]:
        return {index - begin: item for index, item in items.items() if begin <= index < end}

    fragments["message"][fragments["message"] >= 0] -= begin
    section = part.rows[rows] if len(part.rows) else np.zeros(0, MESSAGE)
    return Part(
        section, within(part.payloads), within(part.digests), part.acks[acks], events, fragments, within(part.rdma)
    )
