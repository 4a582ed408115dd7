"""RDS-HDR: the fields of the message header."""

from __future__ import annotations

import numpy as np

from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, PROBE_PORT, Flags
from rdstool.capture.columns import ChecksumStatus
from rdstool.capture.headers import TCP_FLAGS
from rdstool.protocol.kinds import HEARTBEAT_FLAGS, MessageKind
from rdstool.validate.check import Batch, Check
from rdstool.validate.rule import BOTH, ERROR, IB, NOTE, TCP, WARNING, Rule, Severity
from rdstool.validate.view import View

KNOWN_FLAGS = Flags.CONG_BITMAP | Flags.ACK_REQUIRED | Flags.RETRANSMITTED | Flags.EXTHDR_EXTENSION | HEARTBEAT_FLAGS

SHORT = Rule(
    "RDS-HDR-001",
    ERROR,
    "A frame is shorter than an RDS header",
    IB,
    "1, 7.4",
    "net/rds/ib_recv.c",
    "Every InfiniBand SEND of RDS begins with the 48-byte header. A shorter one cannot be read.",
    "The receiver reports the frame as inconsistent and drops the connection; messages under way are sent again.",
    "Look at the sender: it is not a Linux RDS, or its memory was damaged. Check that the queue pair carries RDS.",
)
LENGTH = Rule(
    "RDS-HDR-002",
    ERROR,
    "A message announces more than 1 MiB",
    BOTH,
    "4.1, 9.4",
    "net/rds/send.c, tcp_recv.c",
    "Senders refuse payloads above 1 048 576 bytes, so a larger h_len means a damaged header or a lost boundary.",
    "A TCP receiver checks no limit: it swallows that many bytes as one message. InfiniBand waits for the fragments.",
    "Check the stream from the message before on; an endpoint must bound h_len by itself.",
)
PADDING = Rule(
    "RDS-HDR-003",
    WARNING,
    "Padding bytes of the header are not zero",
    BOTH,
    "1",
    "net/rds/rds.h",
    "The four bytes at offset 26 are unused and every kernel sends zeros there.",
    "Receivers ignore them.",
    "The sender leaks memory or uses a private extension; on a TCP stream it may be a lost message boundary.",
)
UNKNOWN_FLAGS = Rule(
    "RDS-HDR-004",
    WARNING,
    "Flag bits that no kernel knows",
    BOTH,
    "1",
    "net/rds/rds.h",
    "Mainline kernels know the bits 0x27. Oracle's kernel (UEK) also sends heartbeats, 0x18, over InfiniBand: those "
    "are reported as a note. Bits 0x40 and 0x80 have no meaning at all.",
    "Unknown bits are ignored, except together with 0x01: then a congestion bitmap is taken for data.",
    "Find out what sends them; heartbeats need a UEK on both ends to mean anything.",
)
CHECKSUM = Rule(
    "RDS-HDR-005",
    ERROR,
    "The header checksum is wrong",
    BOTH,
    "1.1",
    "net/rds/ib_recv.c, tcp_recv.c",
    "A non-zero h_csum has to be the Internet checksum of the 48 header bytes. Over TCP, where kernels send none, a "
    "wrong one is a warning only.",
    "InfiniBand: the receiver counts recv_drop_bad_checksum, ignores the frame and drops the connection. "
    "TCP: the field is never looked at.",
    "The header was changed after it was computed: suspect the sender's software or its adapter.",
)
NO_CHECKSUM = Rule(
    "RDS-HDR-006",
    WARNING,
    "An InfiniBand frame carries no header checksum",
    IB,
    "1.1",
    "net/rds/ib_send.c",
    "Kernels compute the checksum of every frame, ack-only frames included; 0 means that there is none.",
    "It is accepted unchecked, so damage goes unnoticed.",
    "Let the sender compute it; the test vector in protocol.md §1.1 helps.",
)
TCP_CHECKSUM = Rule(
    "RDS-HDR-007",
    NOTE,
    "A TCP message carries a header checksum",
    TCP,
    "1.1",
    "net/rds/tcp_send.c",
    "Over TCP kernels send h_csum = 0. This one is set, and right.",
    "The receiver never looks at the field.",
    "Nothing is wrong; the sender is not a Linux kernel.",
)
TCP_ACK = Rule(
    "RDS-HDR-008",
    WARNING,
    "h_ack or h_credit is set on a TCP message",
    TCP,
    "1",
    "net/rds/tcp_send.c",
    "Over TCP, TCP itself acknowledges: both fields are always zero. On a stream with holes a set one is the first "
    "sign of a lost message boundary.",
    "Receivers ignore both.",
    "Check the sender; InfiniBand rules do not apply to it.",
)
TCP_FLAGS_RULE = Rule(
    "RDS-HDR-009",
    WARNING,
    "Flags that are not used over TCP",
    TCP,
    "1",
    "net/rds/tcp_send.c, send.c",
    "Over TCP only 0x00, 0x01 and 0x04 occur; ACK_REQUIRED and EXTHDR_EXTENSION belong to InfiniBand. "
    "Combinations with 0x01 are reported by RDS-CNG-002.",
    "Receivers ignore them.",
    "Check the sender.",
)
NO_SPORT = Rule(
    "RDS-HDR-010",
    WARNING,
    "A data message has source port 0",
    BOTH,
    "1.2",
    "net/rds/bind.c, recv.c",
    "No socket can be bound to port 0. It stands only in congestion bitmaps, ack-only frames and pongs.",
    "The message is delivered, but nobody can answer it.",
    "Check the sender.",
)
PROBE_SPORT = Rule(
    "RDS-HDR-011",
    WARNING,
    "A message other than a probe has source port 1",
    BOTH,
    "1.2",
    "net/rds/bind.c",
    "Port 1 is kept for the multipath handshake, whose pings go to port 0; bind() refuses it.",
    "The message is delivered like any other.",
    "Check the sender; kernels before 4.10 could bind port 1.",
)
PING_LENGTH = Rule(
    "RDS-HDR-012",
    WARNING,
    "A ping or pong carries payload",
    BOTH,
    "6",
    "net/rds/send.c, recv.c",
    "Pings of rds-ping, pongs and probes are empty.",
    "Mainline ignores the payload of a ping; UEK drops pings that have one. The payload of a pong is delivered.",
    "An application that sends data to port 0 gets an empty answer; it probably has the wrong port.",
)


class HeaderCheck(Check):
    """Looks at single headers."""

    rules = (
        SHORT,
        LENGTH,
        PADDING,
        UNKNOWN_FLAGS,
        CHECKSUM,
        NO_CHECKSUM,
        TCP_CHECKSUM,
        TCP_ACK,
        TCP_FLAGS_RULE,
        NO_SPORT,
        PROBE_SPORT,
        PING_LENGTH,
    )

    def feed(self, batch: Batch) -> None:
        """Masks over all rows."""
        view = batch.view
        self._short(view)
        if not view.count:
            return
        report, flags, kind = self.report, view.flags, view.kind
        report.rows(LENGTH, view, view.length > MAX_MESSAGE_BYTES, lambda i: f"h_len is {view.length[i]} bytes")
        report.rows(PADDING, view, view.padded, lambda i: f"padding is {view.padding[i].tobytes().hex()}")
        unknown = (flags & ~np.uint8(KNOWN_FLAGS)) != 0
        report.rows(UNKNOWN_FLAGS, view, unknown, lambda i: f"flags are 0x{flags[i]:02x}")
        beats = kind == MessageKind.HEARTBEAT
        beats |= ~unknown & ((flags & HEARTBEAT_FLAGS.value) != 0)
        report.rows(UNKNOWN_FLAGS, view, beats, lambda i: f"flags 0x{flags[i]:02x}: heartbeat of UEK", Severity.NOTE)
        self._checksums(view)
        if view.tcp.any():
            self._tcp_only(view)
        data = (kind == MessageKind.DATA) & ((flags & Flags.CONG_BITMAP) == 0)
        report.rows(NO_SPORT, view, data & (view.sport == 0), lambda i: f"data from port {view.port_text(i)}")
        probe = (view.sport == PROBE_PORT) & (data | (view.ib & (kind == MessageKind.PING)))
        probe &= view.dport != 0
        report.rows(PROBE_SPORT, view, probe, lambda i: f"data from port {view.port_text(i)}")
        ping = (kind >= MessageKind.PING) & (kind <= MessageKind.PROBE_REPLY) & (view.length != 0)
        report.rows(
            PING_LENGTH,
            view,
            ping,
            lambda i: f"{MessageKind(int(kind[i])).label} with {view.length[i]} bytes of payload",
        )

    def _checksums(self, view: View) -> None:
        given = view.header["checksum"] != 0
        status = view.rows["checksum_status"]
        bad = status == ChecksumStatus.BAD

        def what(i: int) -> str:
            return f"h_csum is 0x{int(view.header['checksum'][i]):04x} and does not verify"

        self.report.rows(CHECKSUM, view, bad & view.ib, what)
        self.report.rows(CHECKSUM, view, bad & view.tcp, what, Severity.WARNING)
        absent = (status == ChecksumStatus.ABSENT) & view.ib
        self.report.rows(NO_CHECKSUM, view, absent, lambda i: "h_csum is 0 in a frame of this message")
        good = given & view.tcp & (status == ChecksumStatus.GOOD)
        self.report.rows(TCP_CHECKSUM, view, good, lambda i: f"h_csum is 0x{int(view.header['checksum'][i]):04x}")

    def _tcp_only(self, view: View) -> None:
        flags = view.flags
        both = view.tcp & ((view.ack != 0) | (view.credit != 0))
        self.report.rows(
            TCP_ACK, view, both, lambda i: f"h_ack is {int(view.header['ack'][i])}, h_credit {view.credit[i]}"
        )
        legal = np.isin(flags, TCP_FLAGS) | ((flags & Flags.CONG_BITMAP) != 0)
        legal |= (flags & ~np.uint8(KNOWN_FLAGS)) != 0
        legal |= (flags & HEARTBEAT_FLAGS.value) != 0
        self.report.rows(TCP_FLAGS_RULE, view, view.tcp & ~legal, lambda i: f"flags are 0x{flags[i]:02x}")

    def _short(self, view: View) -> None:
        fragments = view.decoded.fragments
        for row in fragments[fragments["data"] < 0][: self.report.limit + 1]:
            self.report.at(
                SHORT,
                f"a SEND of {HEADER_BYTES + int(row['data'])} bytes",
                int(row["frame"]),
                int(view.time[0]) if view.count else 0,
                stream=int(row["stream"]),
            )
