"""RDS frames of one direction to messages (protocol.md §7.4).

Each SEND is one frame: a 48-byte header and at most a fragment of data. All fragments of a message repeat its
header; they follow one another with nothing between but ack-only frames, which kernels send apart from messages
(``rds_ib_attempt_ack``) and take before they look at the message under way (``rds_ib_process_recv``). Two ways lead
to the same rows: :meth:`Joiner.add` takes one frame and knows all cases, :meth:`Joiner.add_many` takes whole columns
of frames as long as they are regular.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.checksum import checksum_good
from dissectors.wire.extensions import Rdma, parse_extensions
from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES, RDS_HEADER, Flags, RdsHeader
from rdstool.capture.columns import ACK, FRAGMENT, ChecksumStatus, HeaderMatch, Ints
from rdstool.capture.events import Gap, GapReason, RdmaKind, Resynchronised
from rdstool.capture.gather import joined
from rdstool.capture.ib.frames import Frame, Frames, Unfinished, header_match, lay_out
from rdstool.capture.ib.open_message import RANKS, WORST_FIRST, OpenMessage, Payload
from rdstool.capture.ib.order import Budget
from rdstool.capture.ib.output import INT64_MAX, FragmentTuple, Output, message_rows
from rdstool.capture.ib.rdma import Pending
from rdstool.capture.part import PayloadOptions

MAX_FRAGMENT_BYTES = 16384
"""Longest fragment of any kernel (UEK, protocol.md §7.2)."""
MAX_ANNOUNCED = 512
"""RDMA operations that one message may announce."""
_FLAGS_AT = RDS_HEADER.table["flags"].offset
_EXTENSIONS_AT = RDS_HEADER.table["exthdr"].offset


class Joiner:
    """Joins the frames of one direction of a stream. ``fragment_bytes`` is the data of all fragments but the last."""

    __slots__ = (
        "_acknowledged",
        "_budget",
        "_lost",
        "_open",
        "_options",
        "_skipped",
        "_snapped",
        "announced",
        "direction",
        "fragment_bytes",
        "output",
        "stream",
        "unassigned",
    )

    def __init__(self, output: Output, options: PayloadOptions, budget: Budget, stream: int, direction: int) -> None:
        self.output = output
        self.stream = stream
        self.direction = direction
        self.fragment_bytes = FRAGMENT_BYTES
        self.unassigned = 0
        """Frames that are part of no message."""
        self.announced: list[Pending] = []
        """RDMA operations since the last frame."""
        self._options = options
        self._budget = budget
        self._open: OpenMessage | None = None
        self._lost = False
        self._skipped = 0
        self._snapped = False
        """Headers were cut off since the last whole one."""
        self._acknowledged = 0

    @property
    def held_frame(self) -> int | None:
        """The frame that a message which is given up would bear: a gap is in it, or it has been cut off."""
        message = self._open
        return message.frame if message is not None and message.broken else None

    def lose_boundary(self) -> None:
        """Frames are missing, or the stream began before the capture: what comes next may be in mid-message."""
        if self._open is not None:
            self._open.broken = True
        self._lost = True
        self._skipped = 0
        self.announced.clear()

    def wants_payload(self, header: bytes) -> bool:
        """The payload behind this header is of use: asked for, or a congestion bitmap."""
        options = self._options
        flags = header[_FLAGS_AT] if len(header) > _FLAGS_AT else 0
        return options.keep_payloads or options.digests or flags == Flags.CONG_BITMAP

    def finish(self) -> None:
        """No more frames will come."""
        if self._open is not None:
            self._close(self._open)

    def add(self, frame: Frame) -> None:
        """Take the next frame, whatever it is."""
        if len(frame.header) < HEADER_BYTES:
            self._headless(frame)
            return
        self._snapped = False
        header = frame.header
        good = checksum_good(header)
        fields = RDS_HEADER.unpack_from(header)
        status = ChecksumStatus.GOOD if good else ChecksumStatus.BAD if fields.checksum else ChecksumStatus.ABSENT
        if status != ChecksumStatus.BAD and self._acknowledged < fields.ack <= INT64_MAX:
            self._acknowledged = fields.ack
            self.output.ack(self.stream, 1 - self.direction, fields.ack, frame.frame, frame.time)
        message = self._open
        if message is not None and _only_acknowledges(frame, fields):
            self._between(message, frame, status, fields)
            return
        joined = not self._lost if message is None else not message.broken
        if message is not None:
            same = header_match(header, message.header) != HeaderMatch.FOREIGN
            if not same and (message.broken or message.solicited):
                self._close(message)
                message = None
            elif message.broken:
                message.broken = message.sure = False
        if message is None:
            if self._lost and status == ChecksumStatus.BAD:
                self._loose(frame, status, fields)
                return
            message = self._begin(frame, fields)
        self._extend(message, frame, status, fields, joined=joined)
        if message.total >= fields.length or (not message.sure and frame.solicited):
            self._close(message)

    def _between(self, message: OpenMessage, frame: Frame, status: int, fields: RdsHeader) -> None:
        """An ack-only frame that stands between two fragments of a message; of their boundaries it tells nothing."""
        lost, self._lost = self._lost, False
        alone = self._begin(frame, fields)
        self._extend(alone, frame, status, fields, joined=not message.broken)
        self._close(alone)
        self._open, self._lost = message, lost

    def _begin(self, frame: Frame, fields: RdsHeader) -> OpenMessage:
        data = frame.length - HEADER_BYTES
        message = OpenMessage(
            frame.header,
            fields,
            frame.first_frame,
            frame.position,
            inferred=self._lost,
            sure=not self._lost,
            operations=self._operations(frame.header),
            payload=self._payload(frame.header),
        )
        if self._lost and data >= fields.length:
            message.sure = True
        if FRAGMENT_BYTES < data <= MAX_FRAGMENT_BYTES and data < fields.length:
            self.fragment_bytes = data
        self._open = message
        return message

    def _payload(self, header: bytes) -> Payload | None:
        if not self.wants_payload(header):
            return None
        keep = self._options.keep_payloads or header[_FLAGS_AT] == Flags.CONG_BITMAP
        return Payload(self._budget, keep=keep, digest=self._options.digests)

    def _operations(self, header: bytes) -> tuple[Pending, ...]:
        """Which of the operations just before the message it announces: those with its key, and atomics (§8.1)."""
        if not self.announced:
            return ()
        announced, self.announced = self.announced, []
        items = parse_extensions(header[_EXTENSIONS_AT:]).items
        keys = {item.rkey for item in items if isinstance(item, Rdma)}
        atomic = (RdmaKind.COMPARE_SWAP, RdmaKind.FETCH_ADD)
        return tuple(one for one in announced if one.rkey in keys or one.kind in atomic or one.cut)

    def _extend(self, message: OpenMessage, frame: Frame, status: int, fields: RdsHeader, *, joined: bool) -> None:
        match = header_match(frame.header, message.header)
        data = frame.length - HEADER_BYTES
        message.extend(frame, status, self._told(frame, message.fragments, data, joined, status, match, fields))

    def _told(
        self, frame: Frame, index: int, data: int, joined: bool, status: int, match: int, fields: RdsHeader | None
    ) -> FragmentTuple:
        credit, ack = (fields.credit, fields.ack) if fields is not None else (0, 0)
        return (
            self.stream,
            self.direction,
            frame.frame,
            -1,
            index,
            data,
            joined,
            frame.solicited,
            frame.opcode,
            status,
            match,
            credit,
            ack,
        )

    def _loose(self, frame: Frame, status: int, fields: RdsHeader | None) -> None:
        self.unassigned += 1
        self._skipped += 1
        data = frame.length - HEADER_BYTES
        self.output.loose(self._told(frame, 0, data, False, status, HeaderMatch.SAME, fields))

    def _headless(self, frame: Frame) -> None:
        """A frame too short for a header, on the wire or in the capture only."""
        if frame.length >= HEADER_BYTES:
            if not self._snapped:
                self._snapped = True
                place = (self.stream, self.direction, frame.position, 1, GapReason.SNAPPED)
                self.output.events.append(Gap(frame.frame, frame.time, *place))
            message = self._open
            if message is not None and not message.broken:
                message.extend_unseen(frame)
                if message.whole:
                    self._close(message)
            else:
                self.unassigned += 1
                self.lose_boundary()
            return
        self._loose(frame, ChecksumStatus.ABSENT, None)

    def _close(self, message: OpenMessage) -> None:
        """Hand on a message, whole or not."""
        self._open = None
        self.output.message(message.end(self.stream, self.direction))
        if self._lost and not message.broken:
            self._lost = False
            self.output.events.append(
                Resynchronised(
                    message.frame,
                    message.time,
                    self.stream,
                    self.direction,
                    message.position,
                    self._skipped,
                    message.fragments,
                )
            )

    def add_many(self, frames: Frames) -> None:
        """Take many frames: regular ones as columns, the rest one at a time."""
        done = 0
        if self.announced and len(frames):
            self.add(frames.one(0, payload=self.wants_payload(frames.header[0].tobytes())))
            done = 1
        if not self._lost and done < len(frames):
            done += self._regular(frames.part(done, len(frames)))
        for index in range(done, len(frames)):
            self.add(frames.one(index, payload=self.wants_payload(frames.header[index].tobytes())))

    def _regular(self, frames: Frames) -> int:
        """Take messages that are as they should be; the number of frames taken."""
        message = self._open
        unfinished: Unfinished | None = None
        if message is not None:
            unfinished = Unfinished(message.header, message.fields.length, message.fragments, message.total)
        layout = lay_out(frames, self.fragment_bytes, unfinished)
        if layout is None:
            return 0
        told = layout.told
        told["stream"], told["direction"] = self.stream, self.direction
        self._acknowledge(layout.frames, layout.header, told["checksum_status"])
        if message is not None:
            self._continue(message, layout.frames, told, 0, layout.begin)
        if len(layout.start):
            self._rows(layout.frames, told, layout.start, layout.stop)
        count = len(layout.frames)
        if layout.end < count:
            first = layout.frames.one(layout.end, payload=False)
            message = self._begin(first, RDS_HEADER.unpack_from(first.header))
            self._continue(message, layout.frames, told, layout.end, count)
        return count

    def _acknowledge(self, frames: Frames, header: NDArray[Any], status: NDArray[np.uint8]) -> None:
        ack = header["ack"].astype(np.uint64)
        valid = (status != ChecksumStatus.BAD) & (ack <= INT64_MAX)
        given = np.where(valid, ack, 0).astype(np.int64)
        highest = np.maximum.accumulate(np.append(self._acknowledged, given))
        advance = np.flatnonzero(highest[1:] > highest[:-1])
        if not len(advance):
            return
        rows = np.zeros(len(advance), ACK)
        rows["stream"], rows["direction"] = self.stream, 1 - self.direction
        rows["position"], rows["frame"], rows["time"] = given[advance], frames.frame[advance], frames.time[advance]
        self.output.acks(rows)
        self._acknowledged = int(highest[-1])

    def _continue(self, message: OpenMessage, frames: Frames, told: NDArray[Any], start: int, stop: int) -> None:
        """Regular fragments of the open message."""
        message.extend_many(frames, told, start, stop)
        if message.whole:
            self._close(message)

    def _rows(self, frames: Frames, told: NDArray[Any], start: Ints, stop: Ints) -> None:
        """Messages that lie whole in ``frames``."""
        last = stop - 1
        rows = message_rows(frames.header[start])
        rows["stream"], rows["direction"] = self.stream, self.direction
        rows["frame"], rows["time"] = frames.frame[last], frames.time[last]
        rows["first_frame"], rows["position"] = frames.first_frame[start], frames.position[start]
        rows["fragments"] = stop - start
        captured = np.maximum(frames.captured - HEADER_BYTES, 0)
        first, end = int(start[0]), int(stop[-1])
        rows["seen"] = np.add.reduceat(captured[:end], start)
        length = rows["header"]["length"].astype(np.int64)
        rows["complete"] = rows["seen"] == length
        rank = np.minimum.reduceat(RANKS[told["checksum_status"][:end]], start)
        rows["checksum_status"] = np.array(WORST_FIRST)[rank]
        part = joined([told[first:end]], FRAGMENT)
        part["message"] = np.repeat(np.arange(len(start)), stop - start)
        payloads: dict[int, bytes] = {}
        digests: dict[int, str] = {}
        if self._options.keep_payloads or self._options.digests:
            wanted = list(range(len(start)))
        else:
            wanted = np.flatnonzero(rows["header"]["flags"] == Flags.CONG_BITMAP).tolist()
        for index in wanted:
            pieces = frames.payload(int(start[index]), int(stop[index]))
            if self._options.digests and rows["complete"][index]:
                digest = hashlib.sha256()
                for piece in pieces:
                    digest.update(piece)
                digests[index] = digest.hexdigest()
            if self._options.keep_payloads or rows["header"]["flags"][index] == Flags.CONG_BITMAP:
                payloads[index] = b"".join(pieces)
        self.output.rows(rows, part, payloads, digests)


def _only_acknowledges(frame: Frame, fields: RdsHeader) -> bool:
    """What a receiver takes for an ack-only frame."""
    return frame.length == HEADER_BYTES and not fields.sport and not fields.dport
