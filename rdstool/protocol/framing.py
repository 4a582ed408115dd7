"""A TCP byte stream cut into messages: header and payload, back to back (protocol.md §4.1)."""

from __future__ import annotations

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.extensions import EXTENSION_BYTES
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, Flags
from rdstool.protocol.errors import RemoteProtocolError
from rdstool.protocol.reasons import DropReason

NO_EXTENSIONS = bytes(EXTENSION_BYTES)

# Over TCP everything else is zero when sent and ignored when received (§1).
_RECEIVED = RDS_HEADER.partial("sequence", "length", "sport", "dport", "flags")
_SENT = RDS_HEADER.partial("sequence", "length", "sport", "dport", "flags")
_SENT_WITH_EXTENSIONS = RDS_HEADER.partial("sequence", "length", "sport", "dport", "flags", "exthdr")
_EXTENSIONS_AT = RDS_HEADER.table["exthdr"].offset

pack_header = _SENT.pack
"""(sequence, length, sport, dport, flags) -> the 48 bytes of a message without extension headers."""
pack_extended_header = _SENT_WITH_EXTENSIONS.pack
"""The same with the 16 bytes of extension headers as last argument."""

CONGESTION_HEADER = pack_header(0, BITMAP_BYTES, 0, 0, int(Flags.CONG_BITMAP))
"""The header of every congestion map."""


Frame = tuple[int, int, int, int, int, bytes, bytes]
"""One message off the stream: sequence, length, sport, dport, flags, payload, extension headers.

The extension headers are given as zero where the ports say that the message is no handshake. A plain tuple, for one
is made for every message.
"""


class Deframer:
    """Collects bytes and gives messages. Holds at most one message that is not complete.

    ``error`` is set, and nothing more is given, after a header that announces more than ``message_bytes``.
    """

    __slots__ = ("_begun", "_limit", "_need", "began", "error")

    def __init__(self, message_bytes: int) -> None:
        self._limit = message_bytes
        self._begun = bytearray()
        self._need = HEADER_BYTES
        self.began = 0.0
        """When the header of the message that is not complete was seen; 0 where there is none."""
        self.error: RemoteProtocolError | None = None

    @property
    def held(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._begun)

    @property
    def remaining(self) -> tuple[int, int]:
        """Bytes that are missing of the header, and of the payload, of the next message."""
        missing = self._need - len(self._begun)
        return (missing, 0) if len(self._begun) < HEADER_BYTES else (0, missing)

    def feed(self, data: bytes, now: float) -> list[Frame]:
        """The messages that ``data`` completes, in order. ``now`` in seconds."""
        frames: list[Frame] = []
        if self.error is not None:
            return frames
        size = len(data)
        at = self._finish_begun(data, now, frames) if self._begun else 0
        unpack, limit = _RECEIVED.unpack_from, self._limit
        while size - at >= HEADER_BYTES:
            sequence, length, sport, dport, flags = unpack(data, at)
            body = at + HEADER_BYTES
            end = body + length
            if end > size:
                if self._too_long(length):
                    return frames
                self._need = HEADER_BYTES + length
                self.began = now
                break
            if length > limit and self._too_long(length):
                return frames
            handshake = sport + dport == 1
            exthdr = data[at + _EXTENSIONS_AT : body] if handshake else NO_EXTENSIONS
            frames.append((sequence, length, sport, dport, flags, data[body:end], exthdr))
            at = end
        if at < size:
            self._begun += data[at:] if at else data
        return frames

    def _finish_begun(self, data: bytes, now: float, frames: list[Frame]) -> int:
        """Complete what an earlier call began; gives the position in ``data`` behind it."""
        begun, at, size = self._begun, 0, len(data)
        view = memoryview(data)
        while True:
            missing = self._need - len(begun)
            begun += view[at : at + missing]
            at += missing
            if at > size or len(begun) < self._need:
                return size
            sequence, length, sport, dport, flags = _RECEIVED.unpack_from(begun, 0)
            if self._need == HEADER_BYTES and length:
                if self._too_long(length):
                    return size
                self._need = HEADER_BYTES + length
                self.began = now
                continue
            exthdr = bytes(begun[_EXTENSIONS_AT:HEADER_BYTES]) if sport + dport == 1 else NO_EXTENSIONS
            with memoryview(begun) as whole:
                payload = bytes(whole[HEADER_BYTES:])
            frames.append((sequence, length, sport, dport, flags, payload, exthdr))
            self._begun = bytearray()
            self._need = HEADER_BYTES
            self.began = 0.0
            return at

    def _too_long(self, length: int) -> bool:
        if length <= self._limit:
            return False
        self._begun = bytearray()
        self.error = RemoteProtocolError(
            f"a header announces {length} bytes, {self._limit} are allowed", DropReason.OVERSIZED_MESSAGE
        )
        return True
