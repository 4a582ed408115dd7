"""A TCP byte stream cut into messages: header and payload, back to back (protocol.md §4.1)."""

from __future__ import annotations

from io import BytesIO

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.extensions import EXTENSION_BYTES
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, Flags
from rdstool.protocol.errors import RemoteProtocolError
from rdstool.protocol.reasons import DropReason
from rdstool.protocol.room import room_for

AHEAD_BYTES = 1 << 20
"""Of messages that follow and get room beforehand, and the rest of the last of them: as much as the system often has,
for each further read costs more than what it brings."""
LONG_BYTES = 16_384
"""Payloads of this length or more had better be read alone: then they need not be copied."""
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


_Expected = tuple[BytesIO, memoryview, bytearray]
"""Memory for a message that may follow: its payload, all of that as room, and room for the header behind it."""


class Deframer:
    """Collects bytes and gives messages. Holds at most one message that is not complete.

    ``error`` is set, and nothing more is given, after a header that announces more than ``message_bytes``.
    """

    __slots__ = (
        "_begun",
        "_behind",
        "_expected",
        "_header",
        "_limit",
        "_long",
        "_longest",
        "_missing",
        "_payload",
        "_room",
        "began",
        "error",
        "roomy",
    )

    def __init__(self, message_bytes: int) -> None:
        self._limit = message_bytes
        self._header = bytearray()
        """Part of a header."""
        self._behind = bytearray(HEADER_BYTES)
        """Room for the header behind a payload that is read into ``_room``."""
        self._begun: tuple[int, int, int, int, int, bytes] | None = None
        """A header, as in a frame, whose payload is not complete."""
        self._payload = BytesIO()
        """That payload. It grows as bytes come, unless there is ``_room``; and it becomes bytes without a copy."""
        self.roomy = False
        """That payload gets ``room`` for all of it with its first byte, for the peer has sent one as long before. Not
        sooner: many connections that wait for theirs would each keep memory, more than the processor's cache has."""
        self._room: memoryview | None = None
        """What is missing of that payload, in its room. Until it is released, it can become bytes only by a copy."""
        self._expected: list[_Expected] = []
        """Messages that may follow, as long as the one before."""
        self._missing = 0
        self._long = False
        """The last message was a long one, and so may be the next."""
        self._longest = 0
        """Length of the longest payload that came complete."""
        self.began = 0.0
        """When the header of the message that is not complete was seen; 0 where there is none."""
        self.error: RemoteProtocolError | None = None

    @property
    def held(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._header) if self._begun is None else HEADER_BYTES + self._begun[1] - self._missing

    @property
    def remaining(self) -> tuple[int, int]:
        """Bytes that are missing of the header, and of the payload, of the next message."""
        return (HEADER_BYTES - len(self._header), 0) if self._begun is None else (0, self._missing)

    def best_read(self, usual: int) -> int:
        """How many bytes to ask the system for: ``usual``, or what keeps a long payload in one piece."""
        if self._begun is not None:
            return self._missing if self._missing >= LONG_BYTES else usual
        return HEADER_BYTES - len(self._header) if self._long else usual

    @property
    def worth_waking(self) -> int:
        """How many bytes are to be there before it is worth reading: the rest of a payload that has room, else any."""
        return self._missing if self.roomy else 1

    def room(self, unread: int = 0) -> list[memoryview | bytearray]:
        """Where the next bytes can go without a copy: what is missing of a ``roomy`` payload, and the next header.

        Behind them is room for the messages that are among the ``unread`` bytes which the system has, if each of them
        has the same length as this one: payload and then header. Whoever asks for room calls ``placed``, which ends
        the use of all of it.
        """
        assert self._begun is not None
        if self._room is None:
            self._room = self._make_room()
        length = self._begun[1]
        behind = min(unread - self._missing - HEADER_BYTES, AHEAD_BYTES)
        self._expected = [_expect(length) for _ in range(0, behind, length + HEADER_BYTES)]
        buffers: list[memoryview | bytearray] = [self._room, self._behind]
        for _, room, header in self._expected:
            buffers += room, header
        return buffers

    def placed(self, count: int, now: float) -> list[Frame]:
        """The messages that ``count`` bytes in ``room`` complete; there may be none. ``now`` in seconds."""
        frames: list[Frame] = []
        expected, self._expected = self._expected, []
        if count < self._missing:
            self._advance(count)
            return frames
        count -= self._missing
        self._missing = 0
        self._complete(frames)
        header, taken = self._behind, 0
        for payload, room, behind in expected:
            if count < HEADER_BYTES + len(room):
                break
            sequence, length, sport, dport, flags = _RECEIVED.unpack(header)
            if length != len(room) or sport + dport == 1:
                break
            room.release()
            frames.append((sequence, length, sport, dport, flags, payload.getvalue(), NO_EXTENSIONS))
            count -= HEADER_BYTES + length
            header, taken = behind, taken + 1
        if count < HEADER_BYTES:
            self._header += header[:count]
        else:
            self._announced(header, now)
            frames += self._placed_behind(expected[taken:], count - HEADER_BYTES, now)
        return frames

    def _placed_behind(self, expected: list[_Expected], count: int, now: float) -> list[Frame]:
        """The messages that ``count`` bytes complete which came behind a header, where others were expected."""
        if 0 < count < self._missing == len(expected[0][1]):
            self._payload, self._room, _ = expected[0]
            self._advance(count)
            return []
        pieces: list[memoryview | bytearray] = []
        for piece in (piece for _, room, behind in expected for piece in (room, behind)):
            if count <= 0:
                break
            pieces.append(piece[:count])
            count -= len(piece)
        return self.feed(b"".join(pieces), now)

    def feed(self, data: bytes, now: float) -> list[Frame]:
        """The messages that ``data`` completes, in order. ``now`` in seconds."""
        frames: list[Frame] = []
        if self.error is not None:
            return frames
        size = len(data)
        at = self._go_on(data, now, frames) if self._header or self._begun is not None else 0
        unpack, limit = _RECEIVED.unpack_from, self._limit
        while size - at >= HEADER_BYTES:
            sequence, length, sport, dport, flags = unpack(data, at)
            body = at + HEADER_BYTES
            if length > limit:
                self._refuse(length)
                return frames
            exthdr = data[at + _EXTENSIONS_AT : body] if sport + dport == 1 else NO_EXTENSIONS
            at = body + length
            if at > size:
                self._begin(sequence, length, sport, dport, flags, exthdr, now)
                self._keep(data[body:])
                return frames
            frames.append((sequence, length, sport, dport, flags, data[body:at], exthdr))
        if at < size:
            self._header += data[at:]
        if frames:
            self._long = frames[-1][1] >= LONG_BYTES
        return frames

    def _go_on(self, data: bytes, now: float, frames: list[Frame]) -> int:
        """Complete what an earlier call began; gives the position in ``data`` behind it."""
        at = 0
        if self._begun is None:
            at = HEADER_BYTES - len(self._header)
            self._header += data[:at]
            if len(self._header) < HEADER_BYTES:
                return len(data)
            header, self._header = bytes(self._header), bytearray()
            self._announced(header, now)
            if self.error is not None:
                return len(data)
        end = min(at + self._missing, len(data))
        self._keep(data[at:end])
        self._complete(frames)
        return end

    def _announced(self, header: bytes | bytearray, now: float) -> None:
        """A header has come without anything of its payload."""
        sequence, length, sport, dport, flags = _RECEIVED.unpack(header)
        if length > self._limit:
            self._refuse(length)
            return
        exthdr = bytes(header[_EXTENSIONS_AT:]) if sport + dport == 1 else NO_EXTENSIONS
        self._begin(sequence, length, sport, dport, flags, exthdr, now)

    def _begin(self, sequence: int, length: int, sport: int, dport: int, flags: int, exthdr: bytes, now: float) -> None:
        self._begun = sequence, length, sport, dport, flags, exthdr
        self._missing = length
        self.began = now
        self.roomy = LONG_BYTES <= length <= self._longest

    def _make_room(self) -> memoryview:
        self._payload = room_for(self._missing)
        return self._payload.getbuffer()

    def _keep(self, piece: bytes) -> None:
        """Part of a payload."""
        if self.roomy:
            if piece:
                if self._room is None:
                    self._room = self._make_room()
                self._room[: len(piece)] = piece
        else:
            self._payload.write(piece)
        self._advance(len(piece))

    def _advance(self, count: int) -> None:
        """So much more of a payload is there."""
        self._missing -= count
        if self._room is not None:
            rest = self._room[count:]
            self._room.release()
            self._room = rest

    def _complete(self, frames: list[Frame]) -> None:
        """Give the message that was begun, where nothing of it is missing."""
        if self._missing or self._begun is None:
            return
        sequence, length, sport, dport, flags, exthdr = self._begun
        if self._room is not None:
            self._room.release()
            self._room = None
        self.roomy = False
        frames.append((sequence, length, sport, dport, flags, self._payload.getvalue(), exthdr))
        self._payload = BytesIO()
        self._begun = None
        self.began = 0.0
        self._long = length >= LONG_BYTES
        self._longest = max(self._longest, length)

    def _refuse(self, length: int) -> None:
        self.error = RemoteProtocolError(
            f"a header announces {length} bytes, {self._limit} are allowed", DropReason.OVERSIZED_MESSAGE
        )


def _expect(length: int) -> _Expected:
    """Memory for a message of this length."""
    payload = room_for(length)
    return payload, payload.getbuffer(), bytearray(HEADER_BYTES)
