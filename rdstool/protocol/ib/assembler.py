"""Fragments put together: strictly in order, one message at a time (protocol.md §7.4; kernel ``ib_recv.c``)."""

from __future__ import annotations

from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES
from rdstool.protocol.errors import RemoteProtocolError
from rdstool.protocol.ib.header import FrameHeader
from rdstool.protocol.reasons import DropReason


class Assembler:
    """One connection's reassembly. Holds at most one message that is not complete."""

    __slots__ = ("_first", "_limit", "_missing", "_pieces", "_short", "began")

    def __init__(self, message_bytes: int) -> None:
        self._limit = message_bytes
        self._short = min(message_bytes, FRAGMENT_BYTES)
        self._first: FrameHeader | None = None
        """Header of the first fragment of the message that has begun; None between messages."""
        self._pieces: list[bytes] = []
        self._missing = 0
        self.began = 0.0
        """When the first fragment came."""

    @property
    def held(self) -> int:
        """Payload bytes of a message that is not complete."""
        return 0 if self._first is None else self._first.length - self._missing

    def add(self, header: FrameHeader, frame: bytes, now: float) -> tuple[FrameHeader, bytes] | None:
        """Take one more frame; returns a message's first header and its payload when that is complete.

        Raises ``RemoteProtocolError`` where the frame cannot follow the one before it.
        """
        first = self._first
        if first is None and header[2] <= self._short and len(frame) == HEADER_BYTES + header[2]:
            self.began = now
            return header, frame[HEADER_BYTES:]
        if first is None:
            if header.length > self._limit:
                raise RemoteProtocolError(
                    f"a header announces {header.length} bytes, {self._limit} are allowed", DropReason.OVERSIZED_MESSAGE
                )
            first, self._missing, self.began = header, header.length, now
        elif (header.sequence, *header[2:5]) != (first.sequence, *first[2:5]):
            raise RemoteProtocolError(
                f"a fragment of message {header.sequence} came inside message {first.sequence}", DropReason.BAD_FRAGMENT
            )
        size = min(self._missing, FRAGMENT_BYTES)
        end = HEADER_BYTES + size
        if len(frame) < end:
            raise RemoteProtocolError(
                f"a fragment has {len(frame) - HEADER_BYTES} bytes of data instead of {size}", DropReason.BAD_FRAGMENT
            )
        self._missing -= size
        if self._missing:
            self._first = first
            self._pieces.append(frame[HEADER_BYTES:end])
            return None
        if self._first is None:
            return first, frame[HEADER_BYTES:end]
        self._first = None
        pieces, self._pieces = self._pieces, []
        pieces.append(frame[HEADER_BYTES:end])
        return first, b"".join(pieces)
