"""Is a flow RDS? Told from what it carries, where no RDMA-CM exchange was seen.

Port 4791 and the InfiniBand transport carry many protocols. An RDS frame has a header with a checksum over 48
bytes that verifies, and the next frame's header fits to it: that twice in a row is no chance.
"""

from __future__ import annotations

from dataclasses import dataclass

from dissectors.wire.checksum import checksum_good
from dissectors.wire.infiniband import PSN_MASK
from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, RDS_HEADER, Flags, RdsHeader
from rdstool.capture.ib.packets import HEADER_OF, PART_OF, STARTS, Packets, Part, psn_distance

MIN_CHAIN = 2
"""Headers that must verify and agree before a flow is RDS."""
MAX_FOREIGN = 8
"""Frames without a good header after which a flow is something else, where they are the most."""
MAX_STEP = 4096
"""Numbers that one message may be ahead of the one before: cancelled and lost ones leave holes."""
_FLAGS = int(Flags.CONG_BITMAP | Flags.ACK_REQUIRED | Flags.RETRANSMITTED | Flags.HB_PING | Flags.HB_PONG)
_KNOWN_FLAGS = _FLAGS | int(Flags.EXTHDR_EXTENSION)
_STARTS_SEND = (STARTS & (PART_OF == Part.SEND)).tolist()
_HEADER_OF = HEADER_OF.tolist()


@dataclass(slots=True)
class NumberRange:
    """The lowest and the highest packet sequence number seen; 24 bits that wrap. What is sent again has lower ones."""

    low: int = -1
    high: int = -1

    def add(self, *numbers: int) -> None:
        """Numbers of one batch."""
        for number in numbers:
            if self.low < 0:
                self.low = self.high = number
            elif psn_distance(number, self.high) > 0:
                self.high = number
            elif psn_distance(self.low, number) > 0:
                self.low = number

    def near(self, psn: int, slack: int = 4096) -> bool:
        """A number lies in the range, or not far outside."""
        width = (self.high - self.low) & PSN_MASK
        return ((psn - self.low + slack) & PSN_MASK) <= width + 2 * slack


@dataclass(slots=True)
class Evidence:
    """What was seen of a flow that is not decided yet."""

    good: int = 0
    foreign: int = 0
    chain: int = 0
    """Longest run of good headers that agree."""
    _run: int = 0
    _last: RdsHeader | None = None

    def observe(self, packets: Packets) -> None:
        """Look at the frames that begin in ``packets``."""
        data = packets.data
        for index, opcode in enumerate(packets.opcode.tolist()):
            if not _STARTS_SEND[opcode]:
                continue
            skip = _HEADER_OF[opcode]
            at = int(packets.at[index]) + skip
            if packets.captured[index] - skip < HEADER_BYTES:
                self.foreign += bool(packets.length[index] - skip < HEADER_BYTES)
                continue
            header = plausible(data[at : at + HEADER_BYTES].tobytes())
            if header is None:
                self.foreign += 1
                self._run = 0
            else:
                self.good += 1
                self._run = self._run + 1 if self._last is not None and agree(self._last, header) else 1
                self.chain = max(self.chain, self._run)
            self._last = header
            if self.is_rds or self.is_foreign:
                return

    @property
    def is_rds(self) -> bool:
        """Whether enough headers agree."""
        return self.chain >= MIN_CHAIN

    @property
    def is_foreign(self) -> bool:
        """Too many frames have no RDS header."""
        return self.foreign >= MAX_FOREIGN and self.foreign > 2 * self.good


def plausible(raw: bytes) -> RdsHeader | None:
    """The header, where it carries a good checksum and says nothing that no kernel would."""
    if not checksum_good(raw):
        return None
    header = RDS_HEADER.unpack_from(raw)
    if header.checksum == 0 or header.flags & ~_KNOWN_FLAGS or header.length > MAX_MESSAGE_BYTES or any(header.padding):
        return None
    no_ports = header.sport == 0 and header.dport == 0
    if header.sequence == 0:
        return header if no_ports and (header.ack or header.length) else None
    return None if no_ports else header


def agree(before: RdsHeader, after: RdsHeader) -> bool:
    """``after`` may be the frame that follows ``before`` on a connection."""
    if before.sequence and after.sequence:
        if before.sequence == after.sequence:
            return (before.length, before.sport, before.dport) == (after.length, after.sport, after.dport)
        return 0 < after.sequence - before.sequence <= MAX_STEP
    return True
