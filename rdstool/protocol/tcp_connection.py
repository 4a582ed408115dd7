"""A whole connection over TCP: what becomes of the bytes that come in.

The duplicate filter, pings, delivery to sockets, and the handshake, by which paths are agreed on (kernel ``recv.c``).
:mod:`rdstool.protocol.connection` tells where this differs from the kernel.
"""

from __future__ import annotations

from functools import partial

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import HEADER_BYTES, PING_PORT, PROBE_PORT, Flags
from rdstool.protocol import events
from rdstool.protocol.connection import Connection
from rdstool.protocol.framing import NO_EXTENSIONS, Frame
from rdstool.protocol.handshake import Announcement, agreed_paths, announcement_of
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.link import Link
from rdstool.protocol.path import Path
from rdstool.protocol.pings import answer_ping
from rdstool.protocol.reasons import DropReason, SendStatus
from rdstool.protocol.receive_rule import is_duplicate
from rdstool.protocol.states import PathState

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
        """Keep messages until the handshake tells which path they came on; returns those to be judged now.

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

    # ---- Handshake

    def notice(self, said: Announcement, link: Link, path: Path, now: float) -> None:
        """See whether the peer has been restarted, before its message is judged by number (§5.5)."""
        if link.number < self.gen_link:
            # From before a restart that is known already.
            return
        fewer = self.agreed and said.npaths is not None and agreed_paths(len(self.paths), said.npaths, 1) < self.npaths
        changed = bool(said.gen_num and self.peer_gen and said.gen_num != self.peer_gen)
        if self.node.profile.announces_gen_num and said.gen_num:
            self.gen_link = link.number
            old, self.peer_gen = self.peer_gen, said.gen_num
        else:
            changed, old = False, self.peer_gen
        if changed or fewer:
            self._restarted(old, link, path, now)

    def _restarted(self, old_gen: int, link: Link, path: Path, now: float) -> None:
        node = self.node
        node.counters.peer_restarts += 1
        node.emit(events.PeerRestarted(self.local, self.peer, old_gen, self.peer_gen))
        for other in self.paths:
            other.next_rx = 0
            older = other.link is None or other.link.number < link.number
            # What an earlier TCP connection took may have reached the peer before it restarted: never again.
            count = sum(1 for message in (*other.retry, *(other.unacked if older else ())) if message.socket)
            stale = set(map(id, other.retry)) | (set(map(id, other.unacked)) if older else set())
            if stale:
                other.remove(lambda message, stale=stale: id(message) in stale, SendStatus.DROPPED, sent_only=True)  # type: ignore[misc]
                node.counters.messages_flushed += count
            if count:
                node.emit(events.MessagesDropped(self.local, self.peer, other.index, count))
            if other is not path and older and other.state is not PathState.CONNECTING:
                other.drop(DropReason.PEER_RESTARTED, "", now, abort=True)
        for waiting in [each for each in self.parked if each.number < link.number]:
            self.parked.remove(waiting)
            waiting.deaf = True
            node.emit(events.AbortWanted(waiting, DropReason.PEER_RESTARTED))
        if not link.map_seen:
            self.peer_map.bits = None
            node.congestion_changed(self.local, self.peer)
        self.npaths, self.mask, self.agreed = 1, 0, False
        self.gate.forget()

    def agree(self, said: Announcement, link: Link, now: float) -> None:
        """Take over what a handshake message says (§5.2)."""
        node = self.node
        self.probe_sent = False
        own = len(self.paths) if node.profile.announces_npaths else 1
        before = self.npaths
        # More paths than agreed come only after a restart or from one path: sockets would change paths in mid-flow.
        npaths = before if before > 1 else agreed_paths(own, said.npaths, before)
        news = not self.agreed or npaths != before or said.sport_idx != self.peer_sport_idx
        self.agreed = True
        self.peer_sport_idx = said.sport_idx
        self.npaths, self.mask = npaths, npaths - 1
        if news:
            node.emit(events.PathsAgreed(self.local, self.peer, npaths, self.peer_gen, said.sport_idx))
        if said.sport_idx:
            self._place(link, now)
        if self.unsure:
            # On whichever path the peer saw the numbers that were sent there, later ones are above them.
            self.unsure = False
            highest = max(path.next_tx for path in self.paths)
            for path in self.paths:
                path.next_tx = highest
        if npaths > before:
            self._fan_out()
        for path in self.paths:
            path.release()
            path.wake()
        self.unpark(now)
        self._dial_all(now)

    def _place(self, link: Link, now: float) -> None:
        """Move path 0's first TCP connection to the path that its source port tells."""
        first = self.paths[0]
        target = self.path_of(link)
        if link.path != 0 or target is first:
            return
        if target.state is not PathState.DOWN:
            self.node.counters.dropped_misplaced += 1
            first.drop(DropReason.MISPLACED, "", now)
            return
        target.next_rx, first.next_rx = first.next_rx, 0
        target.next_tx = max(target.next_tx, first.next_tx)
        target.unacked.extend(first.unacked)
        first.unacked.clear()
        target.take(link, now)
        first.lost("", now, DropReason.MISPLACED)

    def _fan_out(self) -> None:
        """More than one path from now on. Messages change to the path that their socket has now, or are waited for."""
        moving = [message for path in self.paths[1:] for message in path.queue]
        for path in self.paths[1:]:
            path.queue.clear()
        for message in moving:
            index = message.socket.hash & self.mask if message.socket is not None else 0
            self.paths[index].queue.append(message)
        if self.node.profile.catches_up:
            self.gate.close()
