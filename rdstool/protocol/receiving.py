"""What happens to bytes that come in: the duplicate filter, pings, handshakes, sockets (kernel ``recv.c``)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import HEADER_BYTES, PING_PORT, PROBE_PORT, Flags
from rdstool.protocol import events
from rdstool.protocol.framing import NO_EXTENSIONS, Frame
from rdstool.protocol.handshake import announcement_of
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.link import Link
from rdstool.protocol.path import Path
from rdstool.protocol.pings import answer_ping
from rdstool.protocol.receive_rule import is_duplicate

if TYPE_CHECKING:
    from rdstool.protocol.connection import Connection

_CONGESTION = int(Flags.CONG_BITMAP)
_RETRANSMITTED = int(Flags.RETRANSMITTED)


def receive(link: Link, data: bytes | int, now: float) -> None:
    """Take bytes of one TCP connection, or as many as were put into the deframer's ``room``.

    What is wrong with them ends that connection, and nothing else.
    """
    path = link.path
    if path is None or link.deaf:
        return
    connection, deframer = link.connection, link.deframer
    counters = connection.node.counters
    counters.tcp_data_ready_calls += 1
    if not link.heard:
        doubtful, link.heard = link.doubtful, True
        if doubtful:
            connection.answered(now)
        if link.acked and path.link is link:
            path.bytes_acked(link.acked)
    began = deframer.began or now
    frames = deframer.placed(data, now) if isinstance(data, int) else deframer.feed(data, now)
    judged = _put_by(link, path, frames, began, now) if path.hold is not None else frames
    if link.held:
        link.held += judged
    elif judged and link.path is not None:
        _take_frames(link, judged, began, now)
    path = link.path
    if path is None or link.deaf:
        return
    if deframer.error is not None:
        counters.dropped_oversized += 1
        path.drop(deframer.error.reason, str(deframer.error), now, abort=True)
    elif frames:
        # The peer does speak RDS: the next loss is answered at once. The kernel does not wait for this proof, and
        # tries without pause to reach one that accepts and closes.
        path.ceiling_ms = 0
        connection.node.silent.pop(connection.ends, None)


def _take_frames(link: Link, frames: list[Frame], began: float, now: float) -> None:
    """Take messages of a path that is known. This is the way of nearly all, so it is kept short."""
    path = link.path
    assert path is not None
    connection = link.connection
    counters, ports, peer = connection.node.counters, connection.ports, connection.peer
    for number, (sequence, _length, sport, dport, flags, payload, exthdr) in enumerate(frames):
        # Equality, as the kernel tests: with any other bit it is a message for port 0 (§1).
        if flags == _CONGESTION:
            _take_map(link, payload)
        elif dport > PROBE_PORT:
            if flags and is_duplicate(sequence, bool(flags & _RETRANSMITTED), path.next_rx):
                counters.recv_drop_old_seq += 1
                continue
            path.next_rx = sequence + 1
            if not sport and dport == connection.gate.port:
                connection.gate.open()
                continue
            socket = ports.get(dport)
            if socket is None:
                counters.recv_drop_no_sock += 1
            elif not socket.deliver(payload, peer, sport, began, now):
                counters.paused_overrun += 1
                link.reading = False
                connection.node.emit(events.PauseWanted(link))
                _hold(link, frames[number:], socket)
                return
        else:
            _take_control(link, path, sequence, sport, dport, flags, exthdr, now)
            # A handshake may have moved the link to another path, or ended it.
            if link.path is None or link.deaf:
                return
            path = link.path
        began = now


def _hold(link: Link, frames: list[Frame], socket: Inbox) -> None:
    """Keep what cannot be taken: TCP has acknowledged it, so the peer does not send it again."""
    link.held = frames
    socket.held_up.append(partial(link.connection.go_on, link))


def go_on(link: Link, now: float, *, at_any_rate: bool = False) -> None:
    """Take what was held, and read on; a socket of it has room again, or ``at_any_rate`` takes all of it."""
    while link.held:
        frames, link.held = link.held, []
        _, _, sport, dport, _, payload, _ = frames[0]
        # It has passed the duplicate filter.
        socket = link.connection.ports.get(dport)
        if socket is None:
            link.connection.node.counters.recv_drop_no_sock += 1
        elif not socket.deliver(payload, link.connection.peer, sport, now, now, at_any_rate=at_any_rate):
            _hold(link, frames, socket)
            return
        if link.path is None or link.deaf:
            return
        _take_frames(link, frames[1:], now, now)
        if not at_any_rate:
            break
    if not link.held and not link.reading:
        link.reading = True
        link.connection.node.emit(events.ReadWanted(link))


def _put_by(link: Link, path: Path, frames: list[Frame], began: float, now: float) -> list[Frame]:
    """Keep messages until the handshake tells which path they came on; gives those to be judged now.

    A path's number is not known on the first connection that a freshly started node accepts, and numbers are judged
    by path. Nearly always the first message is a probe, and nothing is kept.
    """
    connection = link.connection
    for index, frame in enumerate(frames):
        _, length, sport, dport, flags, payload, exthdr = frame
        if flags == _CONGESTION:
            _take_map(link, payload)
        elif (sport == PROBE_PORT and dport == PING_PORT and connection.node.settings.ping_enable) or (
            sport == 0 and dport == PROBE_PORT
        ):
            said = announcement_of(exthdr)
            connection.notice(said, link, path, now)
            connection.agree(said, link, now)
            judge(connection, now)
            return frames[index:]
        else:
            connection.unjudged.append((link, frame, began))
            connection.unjudged_bytes += HEADER_BYTES + length
            if connection.unjudged_bytes > connection.node.settings.limits.unjudged_bytes:
                path.release()
                judge(connection, now)
                return frames[index + 1 :]
        began = now
    return []


def judge(connection: Connection, now: float) -> None:
    """Take the messages that were kept, each on the path that its TCP connection was."""
    kept, connection.unjudged, connection.unjudged_bytes = connection.unjudged, [], 0
    for link, frame, began in kept:
        sequence, _length, sport, dport, flags, payload, exthdr = frame
        path = connection.path_of(link)
        if dport <= PROBE_PORT:
            _take_control(link, path, sequence, sport, dport, flags, exthdr, now)
        elif is_duplicate(sequence, bool(flags & _RETRANSMITTED), path.next_rx):
            connection.node.counters.recv_drop_old_seq += 1
        else:
            path.next_rx = sequence + 1
            socket = connection.ports.get(dport)
            if socket is None:
                connection.node.counters.recv_drop_no_sock += 1
            else:
                socket.deliver(payload, connection.peer, sport, began, now, at_any_rate=True)


def _take_map(link: Link, payload: bytes) -> None:
    connection = link.connection
    if len(payload) != BITMAP_BYTES:
        return
    connection.node.counters.cong_update_received += 1
    link.map_seen = True
    connection.map_missed = False
    connection.peer_map.update(payload)
    connection.node.congestion_changed(connection.local, connection.peer)


def _take_control(
    link: Link, path: Path, sequence: int, sport: int, dport: int, flags: int, exthdr: bytes, now: float
) -> None:
    """A message to port 0 or 1 (§5, §6)."""
    connection = link.connection
    node = connection.node
    is_ping = dport == PING_PORT and node.settings.ping_enable
    is_probe = is_ping and sport == PROBE_PORT
    is_probe_reply = dport == PROBE_PORT and sport == 0
    said = announcement_of(exthdr)
    if is_probe or is_probe_reply:
        connection.notice(said, link, path, now)
    if is_duplicate(sequence, bool(flags & _RETRANSMITTED), path.next_rx):
        node.counters.recv_drop_old_seq += 1
        return
    path.next_rx = sequence + 1
    if is_ping:
        if sport:
            answer_ping(connection, path, sport, node.announcement if is_probe else NO_EXTENSIONS, now)
    elif not is_probe_reply:
        node.counters.recv_drop_no_sock += 1
    if (is_probe or is_probe_reply) and not link.deaf:
        connection.agree(said, link, now)
