"""A whole connection over TCP: what its paths, its dialling and its handshake make of the bytes that come in.

The duplicate filter, pings, handshakes and delivery to sockets (kernel ``recv.c``).
"""

from __future__ import annotations

from functools import partial

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import HEADER_BYTES, PING_PORT, PROBE_PORT, Flags
from rdstool.protocol import events
from rdstool.protocol.connection import Connection
from rdstool.protocol.framing import NO_EXTENSIONS, Frame
from rdstool.protocol.handshake import announcement_of
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.link import Link
from rdstool.protocol.path import Path
from rdstool.protocol.pings import answer_ping
from rdstool.protocol.receive_rule import is_duplicate

_CONGESTION = int(Flags.CONG_BITMAP)
_RETRANSMITTED = int(Flags.RETRANSMITTED)


class TcpConnection(Connection):
    """What this node shares with one peer address over TCP."""

    __slots__ = ()

    def receive(self, link: Link, data: bytes | int, now: float) -> None:
        """Take bytes of one TCP connection, or as many as were put into the deframer's ``room``.

        What is wrong with them ends that connection, and nothing else.
        """
        if link.path is None or link.deaf:
            return
        path, node, deframer = self.paths[link.path], self.node, link.deframer
        counters = node.counters
        counters.tcp_data_ready_calls += 1
        if not link.heard:
            doubtful, link.heard = link.doubtful, True
            if doubtful:
                self.answered(now)
            if link.acked and path.link is link:
                path.bytes_acked(link.acked)
        began = deframer.began or now
        frames = deframer.placed(data, now) if isinstance(data, int) else deframer.feed(data, now)
        judged = self._put_by(link, path, frames, began, now) if path.hold is not None else frames
        if link.held:
            link.held += judged
        elif judged and link.path is not None:
            self._take_frames(link, self.paths[link.path], judged, began, now)
        if link.path is None or link.deaf:
            return
        path = self.paths[link.path]
        if deframer.error is not None:
            counters.dropped_oversized += 1
            path.drop(deframer.error.reason, str(deframer.error), now, abort=True)
        elif frames:
            # The peer does speak RDS: the next loss is answered at once. The kernel does not wait for this proof, and
            # tries without pause to reach one that accepts and closes.
            path.ceiling_ms = 0
            if node.silent:
                node.silent.pop(self.ends, None)

    def _take_frames(self, link: Link, path: Path, frames: list[Frame], began: float, now: float) -> None:
        """Take messages of a path that is known. This is the way of nearly all, so it is kept short."""
        counters, ports, peer = self.node.counters, self.ports, self.peer
        for number, (sequence, _length, sport, dport, flags, payload, exthdr) in enumerate(frames):
            # Equality, as the kernel tests: with any other bit it is a message for port 0 (§1).
            if flags == _CONGESTION:
                self._take_map(link, payload)
            elif dport > PROBE_PORT:
                if flags and is_duplicate(sequence, bool(flags & _RETRANSMITTED), path.next_rx):
                    counters.recv_drop_old_seq += 1
                    continue
                path.next_rx = sequence + 1
                if not sport and dport == self.gate.port:
                    self.gate.open()
                    continue
                inbox = ports.get(dport)
                if inbox is None:
                    counters.recv_drop_no_sock += 1
                elif not inbox.deliver(payload, peer, sport, began, now):
                    counters.paused_overrun += 1
                    link.reading = False
                    self.node.emit(events.PauseWanted(link))
                    self._hold(link, frames[number:], inbox)
                    return
            else:
                self._take_control(link, path, sequence, sport, dport, flags, exthdr, now)
                # A handshake may have moved the link to another path, or ended it.
                if link.path is None or link.deaf:
                    return
                path = self.paths[link.path]
            began = now

    # ---- What no socket has room for

    def _hold(self, link: Link, frames: list[Frame], inbox: Inbox) -> None:
        """Keep what cannot be taken: TCP has acknowledged it, so the peer does not send it again."""
        link.held = frames
        inbox.held_up.append(partial(self._go_on, link))

    def _go_on(self, link: Link, now: float) -> None:
        """A socket that held up a TCP connection has room again."""
        if not link.deaf:
            self.take_held(link, now)

    def take_held(self, link: Link, now: float, *, at_any_rate: bool = False) -> None:
        """Take what was held, and read on; a socket of it has room again, or ``at_any_rate`` takes all of it."""
        while link.held:
            frames, link.held = link.held, []
            _, _, sport, dport, _, payload, _ = frames[0]
            # It has passed the duplicate filter.
            inbox = self.ports.get(dport)
            if inbox is None:
                self.node.counters.recv_drop_no_sock += 1
            elif not inbox.deliver(payload, self.peer, sport, now, now, at_any_rate=at_any_rate):
                self._hold(link, frames, inbox)
                return
            path = self.served_by(link)
            if path is None or link.deaf:
                return
            self._take_frames(link, path, frames[1:], now, now)
            if not at_any_rate:
                break
        if not link.held and not link.reading:
            link.reading = True
            self.node.emit(events.ReadWanted(link))

    # ---- What came before its path was known

    def _put_by(self, link: Link, path: Path, frames: list[Frame], began: float, now: float) -> list[Frame]:
        """Keep messages until the handshake tells which path they came on; gives those to be judged now.

        A path's number is not known on the first connection that a freshly started node accepts, and numbers are judged
        by path. Nearly always the first message is a probe, and nothing is kept.
        """
        settings = self.node.settings
        for index, frame in enumerate(frames):
            _, length, sport, dport, flags, payload, exthdr = frame
            if flags == _CONGESTION:
                self._take_map(link, payload)
            elif (sport == PROBE_PORT and dport == PING_PORT and settings.ping_enable) or (
                sport == 0 and dport == PROBE_PORT
            ):
                said = announcement_of(exthdr)
                self.notice(said, link, path, now)
                self.agree(said, link, now)
                self.judge(now)
                return frames[index:]
            else:
                self.unjudged.append((link, frame, began))
                self.unjudged_bytes += HEADER_BYTES + length
                if self.unjudged_bytes > settings.limits.unjudged_bytes:
                    path.release()
                    self.judge(now)
                    return frames[index + 1 :]
            began = now
        return []

    def judge(self, now: float) -> None:
        """Take the messages that were kept, each on the path that its TCP connection was."""
        kept, self.unjudged, self.unjudged_bytes = self.unjudged, [], 0
        for link, frame, began in kept:
            sequence, _length, sport, dport, flags, payload, exthdr = frame
            path = self.path_of(link)
            if dport <= PROBE_PORT:
                self._take_control(link, path, sequence, sport, dport, flags, exthdr, now)
            elif is_duplicate(sequence, bool(flags & _RETRANSMITTED), path.next_rx):
                self.node.counters.recv_drop_old_seq += 1
            else:
                path.next_rx = sequence + 1
                inbox = self.ports.get(dport)
                if inbox is None:
                    self.node.counters.recv_drop_no_sock += 1
                else:
                    inbox.deliver(payload, self.peer, sport, began, now, at_any_rate=True)

    # ---- What is for the engine itself

    def _take_map(self, link: Link, payload: bytes) -> None:
        if len(payload) != BITMAP_BYTES:
            return
        self.node.counters.cong_update_received += 1
        link.map_seen = True
        self.map_missed = False
        self.peer_map.update(payload)
        self.node.congestion_changed(self.local, self.peer)

    def _take_control(
        self, link: Link, path: Path, sequence: int, sport: int, dport: int, flags: int, exthdr: bytes, now: float
    ) -> None:
        """A message to port 0 or 1 (§5, §6)."""
        node = self.node
        is_ping = dport == PING_PORT and node.settings.ping_enable
        is_probe = is_ping and sport == PROBE_PORT
        is_probe_reply = dport == PROBE_PORT and sport == 0
        said = announcement_of(exthdr)
        if is_probe or is_probe_reply:
            self.notice(said, link, path, now)
        if is_duplicate(sequence, bool(flags & _RETRANSMITTED), path.next_rx):
            node.counters.recv_drop_old_seq += 1
            return
        path.next_rx = sequence + 1
        if is_ping:
            if sport:
                answer_ping(self, path, sport, node.announcement if is_probe else NO_EXTENSIONS, now)
        elif not is_probe_reply:
            node.counters.recv_drop_no_sock += 1
        if (is_probe or is_probe_reply) and not link.deaf:
            self.agree(said, link, now)
