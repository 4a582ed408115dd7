"""RDS-SEQ: the numbering of messages within one connection. What spans connections is in ``delivery``."""

from __future__ import annotations

import numpy as np

from dissectors.wire.rds import Flags
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.validate.check import Batch, Check
from rdstool.validate.rule import BOTH, ERROR, NOTE, WARNING, Rule

_SOURCE = "net/rds/send.c, recv.c"

ZERO = Rule(
    "RDS-SEQ-001",
    WARNING,
    "A data message, ping or pong has sequence 0",
    BOTH,
    "4.7",
    _SOURCE,
    "Numbering starts at 1. Only congestion bitmaps and ack-only frames carry 0.",
    "The message is delivered and the receiver expects 1 next. Over InfiniBand it is never acknowledged.",
    "Check the sender.",
)
INCREASE = Rule(
    "RDS-SEQ-002",
    ERROR,
    "A new message does not have a higher number than those before it",
    BOTH,
    "4.7",
    _SOURCE,
    "Within a connection messages without RETRANSMITTED carry rising numbers.",
    "The receiver delivers the message, whatever its number, and then expects the number after it: a later resend of "
    "what lies above is delivered twice.",
    "The sender numbers wrongly, or two senders share a connection. Applications see doubled or reordered messages.",
    unbroken=True,
)
GAP = Rule(
    "RDS-SEQ-003",
    NOTE,
    "Sequence numbers are left out",
    BOTH,
    "4.7",
    _SOURCE,
    "Kernels number messages consecutively; cancelled messages (RDS_CANCEL_SENT_TO, a closed socket) and dropped RDMA "
    "messages leave holes.",
    "Legal: the receiver accepts any higher number.",
    "Expected where sockets were closed with messages waiting; else ask what happened to the missing ones.",
    unbroken=True,
)
CONTROL = Rule(
    "RDS-SEQ-004",
    WARNING,
    "A congestion bitmap or ack-only frame has a sequence number",
    BOTH,
    "3.1, 7.5",
    "net/rds/cong.c, ib_send.c",
    "Neither takes part in the numbering; kernels send 0.",
    "A number on a bitmap is ignored; an ack-only frame's too.",
    "Check the sender.",
)
FIRST = Rule(
    "RDS-SEQ-005",
    NOTE,
    "The first message on a new path is not number 1",
    BOTH,
    "4.7",
    _SOURCE,
    "A path's numbering starts at 1 when the kernel creates it, and goes on over reconnects.",
    "The receiver accepts any first number.",
    "Usual where the capture began after an earlier connection of the same addresses had ended.",
    unbroken=True,
)


class SequenceCheck(Check):
    """Looks at the numbers of each flow."""

    rules = (ZERO, INCREASE, GAP, CONTROL, FIRST)

    def feed(self, batch: Batch) -> None:
        """Compare each number with those before it."""
        view, rows = batch.view, batch.numbered
        sequence = view.sequence
        self.report.rows(ZERO, view, view.numbered & (sequence == 0), lambda i: f"{_kind(int(view.kind[i]))} number 0")
        control = ((view.kind == MessageKind.ACK) | (view.flags == Flags.CONG_BITMAP)) & (sequence != 0)
        self.report.rows(CONTROL, view, control, lambda i: f"{_kind(int(view.kind[i]))} with sequence {sequence[i]}")
        if not len(rows):
            return
        new = ~rows.flagged & rows.joined & (rows.highest >= 0) & (rows.sequence > 0)
        back = np.flatnonzero(new & (rows.sequence <= rows.highest))
        before = dict(zip(rows.index[back].tolist(), rows.highest[back].tolist(), strict=True))
        self.report.rows(
            INCREASE,
            view,
            rows.index[back],
            lambda i: f"sequence {sequence[i]} without RETRANSMITTED, but {before[i]} was sent before it",
        )
        gaps = np.flatnonzero(new & (rows.sequence > rows.highest + 1))
        left = dict(zip(rows.index[gaps].tolist(), rows.highest[gaps].tolist(), strict=True))
        self.report.rows(GAP, view, rows.index[gaps], lambda i: _left_out(left[i] + 1, int(sequence[i]) - 1))
        for place in np.flatnonzero(rows.opens & (rows.segment == 0) & (rows.sequence > 1)).tolist():
            stream = self.context.streams[int(rows.flow[place]) >> 1]
            # InfiniBand has one connection at a time, so a second one was made again, seen to end or not.
            connections = self.context.connections
            older = connections.older(stream)
            alone = not older or stream.transport is Transport.TCP
            if stream.path >= 0 and any(self.context.streams[number].path == stream.path for number in older):
                continue
            if alone and not connections.replaced(stream):
                self.report.rows(FIRST, view, [rows.index[place]], lambda i: f"begins with sequence {sequence[i]}")


def _kind(kind: int) -> str:
    return MessageKind(kind).label


def _left_out(first: int, last: int) -> str:
    if first == last:
        return f"sequence {first} was not sent"
    return f"sequences {first} to {last} were not sent ({last - first + 1} numbers)"
