"""Makes frames of what a node exchanges, without the rights that a capture needs.

Over RoCE they are those that went out and came in. Over TCP they are made up around the bytes that went through the
node's sockets: handshakes, segments, acknowledgements as far as the node has learnt of them, FIN and RST. There are no
retransmissions, for the system shows none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rdstool.endpoint.frames import SEGMENT_BYTES, SEQUENCES, Host, TcpFlag, tcp_frame
from rdstool.endpoint.log import LOGGER
from rdstool.errors import TransportError
from rdstool.export.pcapng import PcapngWriter

FIRST_SEQUENCE = 1
"""Initial TCP sequence number of both sides of the first connection."""
SEQUENCE_STEP = 0x9E3779B1
"""Added to the initial numbers for each connection. They differ so that a connection on the ports of an earlier one is
not taken for its continuation."""
APPLICATION = "rdstool"
"""What pcapng files name as the program that wrote them."""

FrameTaker = Callable[[int, bytes], None]
"""Takes the time in nanoseconds since 1970, and an Ethernet frame. It must not wait; after an ``OSError`` it gets no
more."""


class Recording:
    """A pcapng file that takes frames."""

    def __init__(self, path: Path) -> None:
        """Create the file, or empty it. Raises ``TransportError``."""
        self._path = path
        self._problem: OSError | None = None
        try:
            self._file = PcapngWriter(path, APPLICATION)
        except OSError as problem:
            raise TransportError(f"{path}: cannot be written: {problem.strerror or problem}") from problem

    def frame(self, time_ns: int, data: bytes) -> None:
        """Add an Ethernet frame; ``time_ns`` since 1970. Raises ``OSError``."""
        try:
            self._file.frame(time_ns, data)
        except OSError as problem:
            self._problem = problem
            raise

    def close(self) -> None:
        """Complete the file. Raises ``TransportError`` where it lacks frames that were added."""
        try:
            self._file.close()
        except OSError as problem:
            self._problem = self._problem or problem
        if self._problem is not None:
            why = self._problem.strerror or self._problem
            raise TransportError(f"{self._path}: the recording is not complete: {why}") from self._problem


@dataclass(slots=True)
class _Conversation:
    """One TCP connection as the frames tell it."""

    local: Host
    peer: Host
    first_sequence: int
    """First sequence number of both directions."""
    local_ended: bool = False
    peer_ended: bool = False


class Recorder:
    """A tap of the transport (``rdstool.transport.base.Tap``) that hands frames to all its takers."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        """``clock`` gives nanoseconds since 1970."""
        self.takers: list[FrameTaker] = []
        self._clock = clock
        self._conversations: dict[int, _Conversation] = {}
        self._next_first = FIRST_SEQUENCE

    def packet(self, frame: bytes) -> None:
        """Take a frame as it went over the network."""
        self._hand(frame)

    def opened(self, key: int, local: tuple[str, int], peer: tuple[str, int], *, incoming: bool) -> None:
        """Make the frames of the handshake: SYN, SYN with ACK, ACK."""
        talk = self._begin(key, local, peer)
        client, server = (talk.peer, talk.local) if incoming else (talk.local, talk.peer)
        self._add(client, server, TcpFlag.SYN)
        client.advance(1)
        server.acknowledges = client.next_sequence
        self._add(server, client, TcpFlag.SYN | TcpFlag.ACK)
        server.advance(1)
        client.acknowledges = server.next_sequence
        self._add(client, server, TcpFlag.ACK)

    def joined(self, key: int, local: tuple[str, int], peer: tuple[str, int], sent: int, *, ended: bool) -> None:
        """Begin in the middle of a connection: we have sent ``sent`` bytes, and if ``ended`` our FIN."""
        talk = self._begin(key, local, peer)
        talk.local_ended = ended
        talk.peer.advance(1)
        talk.local.advance(1 + sent + ended)
        talk.local.acknowledges = talk.peer.next_sequence
        talk.peer.acknowledges = talk.local.next_sequence

    def _begin(self, key: int, local: tuple[str, int], peer: tuple[str, int]) -> _Conversation:
        first = self._next_first
        self._next_first = (first + SEQUENCE_STEP) % SEQUENCES
        self._conversations[key] = talk = _Conversation(Host(*local, first), Host(*peer, first), first)
        return talk

    def sent(self, key: int, data: bytes) -> None:
        """Make segments of what we sent."""
        talk = self._conversations[key]
        self._segments(talk.local, talk.peer, data)

    def received(self, key: int, data: bytes) -> None:
        """Make segments of what the peer sent, and our system's acknowledgement."""
        talk = self._conversations[key]
        self._segments(talk.peer, talk.local, data)
        talk.local.acknowledges = talk.peer.next_sequence
        self._add(talk.local, talk.peer, TcpFlag.ACK)

    def acknowledged(self, key: int, total: int) -> None:
        """Make an acknowledgement by the peer of the first ``total`` bytes that we sent."""
        talk = self._conversations.get(key)
        if talk is not None:
            talk.peer.acknowledges = (talk.first_sequence + 1 + total) % SEQUENCES
            self._add(talk.peer, talk.local, TcpFlag.ACK)

    def closed(self, key: int, *, reset: bool, by_peer: bool) -> None:
        """Make the FIN of one side, or RST."""
        talk = self._conversations.get(key)
        if talk is None:
            return
        source, destination = (talk.peer, talk.local) if by_peer else (talk.local, talk.peer)
        if reset:
            self._add(source, destination, TcpFlag.RST | TcpFlag.ACK)
        elif not (talk.peer_ended if by_peer else talk.local_ended):
            self._add(source, destination, TcpFlag.FIN | TcpFlag.ACK)
            source.advance(1)
        if by_peer and not reset:
            # Whether the peer has acknowledged our own FIN is not known, and not made up.
            talk.local.acknowledges = talk.peer.next_sequence
            self._add(talk.local, talk.peer, TcpFlag.ACK)
        talk.peer_ended |= by_peer or reset
        talk.local_ended |= not by_peer or reset
        if talk.peer_ended and talk.local_ended:
            del self._conversations[key]

    def _segments(self, source: Host, destination: Host, data: bytes) -> None:
        for at in range(0, len(data), SEGMENT_BYTES):
            piece = data[at : at + SEGMENT_BYTES]
            self._add(source, destination, TcpFlag.PSH | TcpFlag.ACK, piece)
            source.advance(len(piece))

    def _add(self, source: Host, destination: Host, flags: TcpFlag, data: bytes = b"") -> None:
        self._hand(tcp_frame(source, destination, flags, data))

    def _hand(self, frame: bytes) -> None:
        now = self._clock()
        for taker in tuple(self.takers):
            try:
                taker(now, frame)
            except OSError as problem:
                # Nothing that becomes of a recording may disturb the connection that is recorded.
                self.takers.remove(taker)
                LOGGER.warning("recording ends: %s", problem.strerror or problem)
