"""RDS-TCP: the connections beneath."""

from __future__ import annotations

from typing import NamedTuple

from dissectors.wire.extensions import SportIdx
from dissectors.wire.rds import MAX_PATHS, TCP_PORT
from rdstool.capture.events import Closing, StreamClosed
from rdstool.capture.streams import Stream
from rdstool.protocol.kinds import Transport
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rule import NOTE, TCP, WARNING, Rule

_SOURCE = "net/rds/tcp_connect.c, tcp_listen.c"
DUEL_NS = 5_000_000_000
"""A connection that the wrong side opened is closed at once; 5 s is the longest shutdown."""

INITIATOR = Rule(
    "RDS-TCP-001",
    WARNING,
    "A connection was not opened as RDS does it",
    TCP,
    "4.2",
    _SOURCE,
    "The smaller address opens connections, to port 16385. The larger may dial once when it has something to send, and "
    "closes that connection at once.",
    "A connection of the larger side is reset by the smaller one, which then dials itself.",
    "For another port: nothing is wrong if you asked for it (--tcp-port). Else check which side dials.",
)
LARGER = Rule(
    "RDS-TCP-002",
    WARNING,
    "RDS messages travel on a connection that the larger address opened",
    TCP,
    "4.2",
    _SOURCE,
    "No RDS bytes are valid on such a connection.",
    "The kernel closes it with linger 0, without reading it: the messages are lost to it and sent again elsewhere.",
    "An endpoint must compare the addresses as unsigned big-endian numbers, and listen if its own is the larger.",
)
PARTIAL = Rule(
    "RDS-TCP-003",
    NOTE,
    "The stream ends within a message",
    TCP,
    "4.1, 4.6",
    "net/rds/tcp_send.c, tcp_recv.c",
    "Messages stand back to back; a FIN normally follows the end of one.",
    "The receiver discards the part; the sender sends the whole message again on the next connection.",
    "Look for the message on the next connection of the path.",
    unbroken=True,
)
SAME_PATH = Rule(
    "RDS-TCP-004",
    WARNING,
    "Two live connections for one path",
    TCP,
    "4.3, 4.4",
    _SOURCE,
    "With SPORT_IDX the TCP source port modulo 8 names the path, and a path has one connection at a time.",
    "The new connection is parked until the old one ends, and blocks further ones meanwhile.",
    "The old connection must be closed before the path is dialled again.",
)


class _Holder(NamedTuple):
    """The stream that carries a path."""

    stream: int
    last_frame: int
    """Of its messages."""


class TcpCheck(Check):
    """Looks at connections, not at messages."""

    rules = (INITIATOR, LARGER, PARTIAL, SAME_PATH)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ports_tell: dict[bytes, int] = {}
        """Dialling address -> frame of its first handshake message with SPORT_IDX."""

    def feed(self, batch: Batch) -> None:
        """Ends of streams, and handshakes."""
        for event in batch.view.decoded.events:
            if isinstance(event, StreamClosed) and event.how is Closing.FIN and event.pending:
                self.report.at(
                    PARTIAL,
                    f"{self.who(event.stream, event.direction)} ends {event.pending} bytes into a message",
                    event.frame,
                    event.time,
                    stream=event.stream,
                )
        for said in batch.shakes:
            if said.has(SportIdx):
                self._ports_tell.setdefault(said.source, said.frame)

    def finish(self) -> None:
        """Judge each connection as a whole."""
        connections = self.context.connections
        for stream in self.context.streams.streams:
            opened = connections.opened.get(stream.number)
            if stream.transport is not Transport.TCP or not stream.initiator_known or opened is None:
                continue
            if TCP_PORT not in (stream.a.port, stream.b.port) or (
                stream.b.port != TCP_PORT and stream.a.port == TCP_PORT
            ):
                text = _opening(stream)
                self.report.at(INITIATOR, text, opened.frame, opened.time, stream=stream.number)
            if stream.a.address > stream.b.address:
                spoke = connections.spoke(stream.number)
                if spoke is not None:
                    text = f"{_opening(stream)}, and messages follow from frame {spoke.first} on"
                    self.report.at(LARGER, text, opened.frame, opened.time, stream=stream.number)
                elif connections.now - opened.time >= DUEL_NS and self._stays(stream):
                    text = f"{_opening(stream)}, which is the smaller address, and it stays open"
                    self.report.at(INITIATOR, text, opened.frame, opened.time, stream=stream.number)
        for numbers in connections.shared.values():
            first = self.context.streams[numbers[0]]
            told = first.transport is Transport.TCP and first.address_pair[0] in self._ports_tell
            # Where the capture lacks frames the ends of connections may be among them.
            if told and not self.context.continuity.lossy:
                self._one_path_one_connection(numbers)

    def _stays(self, stream: Stream) -> bool:
        """The connection has no end that the capture shows, or would have shown, and none took its place."""
        connections = self.context.connections
        younger = connections.of_pair(stream.pair)
        return (
            stream.number not in connections.closed
            and not self.context.continuity.lossy
            and self.context.both_ends_heard(stream)
            and not any(connections.spoke(number) for number in younger if number > stream.number)
        )

    def _one_path_one_connection(self, numbers: list[int]) -> None:
        connections, streams = self.context.connections, self.context.streams
        holders: dict[int, _Holder] = {}
        for number in numbers:
            stream = streams[number]
            if not stream.from_start or stream.a.address > stream.b.address:
                continue
            spoke = connections.spoke(number)
            if spoke is None:
                continue
            path = stream.a.port % MAX_PATHS
            holder = holders.get(path)
            if holder is not None and holder.last_frame > spoke.first:
                opened = connections.opened.get(number)
                self.report.at(
                    SAME_PATH,
                    f"TCP source port {stream.a.port} is path {path}, which stream {holder.stream} still carries "
                    f"(messages up to frame {holder.last_frame})",
                    stream.first_frame,
                    opened.time if opened else 0,
                    stream=number,
                )
            if holder is None or holder.last_frame < spoke.last:
                holders[path] = _Holder(number, spoke.last)


def _opening(stream: Stream) -> str:
    return f"{stream.a.host} port {stream.a.port} opened it to {stream.b.host} port {stream.b.port}"
