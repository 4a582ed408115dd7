"""RDS frames, one a SEND: singly, and as columns whose messages can be told at once (protocol.md §7.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import HEADER_BYTES
from rdstool.capture.columns import FRAGMENT, RDS_DTYPE, HeaderMatch, Ints
from rdstool.capture.headers import checksum_status

_KEY = (slice(0, 8), slice(16, 24))
"""Sequence, and length with ports: what a receiver compares."""
_FREE = (25, 30, 31)
"""Credit and checksum: what may differ between fragments."""
# Many headers are compared eight bytes at a time.
_KEY_WORDS = [part.start // 8 for part in _KEY]
_NOT_FREE = np.full(HEADER_BYTES, 0xFF, np.uint8)
_NOT_FREE[list(_FREE)] = 0
_NOT_FREE_WORDS = _NOT_FREE.view(np.uint64)


@dataclass(slots=True)
class Frame:
    """One SEND, reassembled."""

    frame: int
    time: int
    first_frame: int
    position: int
    opcode: int
    solicited: bool
    length: int
    """Bytes of the SEND on the wire, header included."""
    captured: int
    header: bytes
    """48 bytes; fewer where they were not sent or not captured."""
    payload: list[bytes] = field(default_factory=list)
    """Captured bytes behind the header, where asked for."""


@dataclass(slots=True)
class Frames:
    """Columns of many, in order, their headers whole."""

    frame: Ints
    time: Ints
    first_frame: Ints
    position: Ints
    opcode: NDArray[np.uint8]
    solicited: NDArray[np.bool_]
    length: Ints
    captured: Ints
    header: NDArray[np.uint8]
    """The headers, 48 bytes for each frame."""
    payload: Callable[[int, int], list[memoryview]]
    """Captured bytes behind the headers of the frames from .. to, in pieces."""

    def __len__(self) -> int:
        return len(self.frame)

    def part(self, start: int, stop: int) -> Frames:
        """Some of the frames."""
        cut, whole = slice(start, stop), self.payload
        return Frames(
            self.frame[cut],
            self.time[cut],
            self.first_frame[cut],
            self.position[cut],
            self.opcode[cut],
            self.solicited[cut],
            self.length[cut],
            self.captured[cut],
            self.header[cut],
            lambda first, last: whole(start + first, start + last),
        )

    def one(self, index: int, *, payload: bool) -> Frame:
        """A single frame."""
        return Frame(
            int(self.frame[index]),
            int(self.time[index]),
            int(self.first_frame[index]),
            int(self.position[index]),
            int(self.opcode[index]),
            bool(self.solicited[index]),
            int(self.length[index]),
            int(self.captured[index]),
            self.header[index].tobytes(),
            [bytes(piece) for piece in self.payload(index, index + 1)] if payload else [],
        )


@dataclass(frozen=True, slots=True)
class Unfinished:
    """The message that the frame before left open."""

    header: bytes
    length: int
    fragments: int
    total: int
    """Data bytes so far."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which frames make which messages. The first ``begin`` frames end the unfinished message, or are part of it."""

    frames: Frames
    header: NDArray[Any]
    told: NDArray[Any]
    """Rows of ``FRAGMENT``, without stream and direction."""
    begin: int
    start: Ints
    """The first frame of each whole message."""
    stop: Ints
    """The frame behind its last."""
    end: int
    """Where a message begins whose last frame is still to come; the number of frames where there is none."""


def lay_out(frames: Frames, size: int, unfinished: Unfinished | None) -> Layout | None:
    """Find the messages of frames that are as a kernel sends them, up to the first message that is not.

    ``size`` is the data of all fragments but a message's last. None where not even the first message is regular.
    """
    count = len(frames)
    header = frames.header.reshape(-1).view(RDS_DTYPE)
    length = header["length"].astype(np.int64)
    begin = 0
    if unfinished is not None:
        if unfinished.total != unfinished.fragments * size:
            return None
        begin = min(count, -(-(unfinished.length - unfinished.total) // size))
    starts = _starts(np.maximum(1, -(-length // size)), begin)
    bounds = np.append(starts, count)
    # Each fragment is held against the first one of its message.
    owner = np.concatenate((np.full(begin, -1, np.int64), np.repeat(starts, np.diff(bounds))))
    words = frames.header.view(np.uint64)
    first, total, index = words.take(owner, axis=0), length[owner], np.arange(count) - owner
    if unfinished is not None:
        first[:begin] = np.frombuffer(unfinished.header, np.uint64)
        total[:begin], index[:begin] = unfinished.length, unfinished.fragments + np.arange(begin)
    data = frames.length - HEADER_BYTES
    differ = words ^ first
    foreign = _any(differ[:, _KEY_WORDS])
    irregular = foreign | (data != np.clip(total - index * size, 0, size))
    if irregular.any():
        bad = int(np.argmax(irregular))
        regular = 0 if bad < begin else int(starts[np.searchsorted(starts, bad, "right") - 1])
        return lay_out(frames.part(0, regular), size, unfinished) if regular else None
    told = np.zeros(count, FRAGMENT)
    told["frame"], told["message"], told["index"], told["data"] = frames.frame, -1, index, data
    told["joined"], told["solicited"], told["opcode"] = True, frames.solicited, frames.opcode
    # Continuations repeat the first header, and so its checksum.
    told["checksum_status"][starts] = checksum_status(header.take(starts))
    told["checksum_status"] = told["checksum_status"][owner]
    other = np.arange(begin)
    told["credit"], told["ack"] = header["credit"], header["ack"]
    if differ.any():
        changed = _any(differ)
        other = np.union1d(other, np.flatnonzero(changed))
        told["header_match"] = np.where(changed, HeaderMatch.CREDIT, HeaderMatch.SAME)
        told["header_match"][_any(differ & _NOT_FREE_WORDS)] = HeaderMatch.OTHER
    told["checksum_status"][other] = checksum_status(header.take(other))
    end = count
    if len(starts) and starts[-1] + max(1, -(-int(length[starts[-1]]) // size)) > count:
        end = int(starts[-1])
        starts = starts[:-1]
    return Layout(frames, header, told, begin, starts, np.append(starts[1:], end)[: len(starts)], end)


def _any(differ: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell in which rows some bit is set."""
    return np.asarray(np.bitwise_or.reduce(differ, axis=1) != 0)


def _starts(needed: Ints, begin: int) -> Ints:
    """The first frame of each message, when each needs so many frames."""
    steps = needed.tolist()
    starts: list[int] = []
    at = begin
    while at < len(steps):
        starts.append(at)
        at += steps[at]
    return np.array(starts, np.int64)


def header_match(header: bytes, first: bytes) -> int:
    """How a fragment's header differs from its message's first one: a :class:`HeaderMatch`."""
    if header == first:
        return HeaderMatch.SAME
    if any(header[part] != first[part] for part in _KEY):
        return HeaderMatch.FOREIGN
    differ = {at for at in range(HEADER_BYTES) if header[at] != first[at]}
    return HeaderMatch.CREDIT if differ <= set(_FREE) else HeaderMatch.OTHER
