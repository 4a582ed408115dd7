"""Carries links of the engine over TCP sockets, in whichever thread looks after them."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from functools import partial
from itertools import count

from dissectors.wire.rds import TCP_PORT
from rdstool.protocol import events
from rdstool.protocol.link import BaseLink, Link
from rdstool.transport.alarm import Alarm
from rdstool.transport.base import Tap, Wanted
from rdstool.transport.driver import Driver
from rdstool.transport.lookout import READ, TURN_LONG_BYTES, WRITE
from rdstool.transport.scopes import host_of
from rdstool.transport.tcp.queues import unread
from rdstool.transport.tcp.sockets import Dialler, MakeSocket, abort, listener, tune
from rdstool.transport.tcp.stream import WRITE_BYTES, HostPort, Stream

READ_BYTES = 1 << 16
"""Read from one socket at once. Buffers above this cost the system new pages, again and again."""
READ_LONG_BYTES = 1 << 18
"""At once of a long payload that has no room of its own yet."""
TURN_BYTES = 1 << 19
"""Of short messages, read from one socket before others have their turn, and the application has its own."""
ACCEPT_ROUNDS = 64
"""Connections taken before others have their turn."""
ACCEPT_PAUSE_S = 1.0
"""How long no connections are taken after the system ran out of file descriptors."""
ACK_FIRST_S = 0.001
"""When to ask for acknowledgements after a write."""
ACK_POLLED_S = 0.008
"""While a thread of the application asks anyhow, for it waits for room."""
ACK_LONGEST_S = 0.064
"""Between two questions where nothing is acknowledged; a receiver delays its acknowledgements by 40 ms."""

_ENDED_AT_ONCE = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}
"""Of a dialled socket: it was established, and the peer has reset it. A refusal is ECONNREFUSED."""
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TcpTransport:
    """All TCP connections of one node."""

    def __init__(self, driver: Driver, *, port: int = TCP_PORT, make_socket: MakeSocket = socket.socket) -> None:
        self._driver = driver
        self._loop = driver.loop
        self._engine = driver.engine
        self._tap: Tap | None = None
        self._port = port
        self._make_socket = make_socket
        first = int(self._engine.random.random() * (1 << 16))
        by_path = self._engine.profile.announces_sport_idx
        self._dialler = Dialler(self._engine.settings, first, port=port, by_path=by_path, make_socket=make_socket)
        self._listeners: list[tuple[str, socket.socket]] = []
        self._streams: dict[int, Stream] = {}
        self._keys = count(1)
        self._lookout = driver.lookout
        self._unacked: set[Stream] = set()
        self._ack_alarm = Alarm(driver.loop, self._ask_acks)
        self._ack_delay = ACK_FIRST_S
        self._written = False
        """Something was written since acknowledgements were asked for; then they are once more."""
        self._polled = False
        """A thread of the application has asked since."""

    # ---- Listening

    def listen(self, address: str) -> None:
        """Take connections on the port. Raises ``TransportError``."""
        sock = listener(address, self._port, self._engine.settings, self._make_socket)
        self._listeners.append((address, sock))
        self._loop.add_reader(sock, self._accept, address, sock)

    def _accept(self, address: str, sock: socket.socket) -> None:
        with self._driver.turn:
            for _ in range(ACCEPT_ROUNDS):
                try:
                    incoming, peer = sock.accept()
                except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                    break
                except OSError as problem:
                    if problem.errno in _OUT_OF_RESOURCES:
                        self._pause(address, sock)
                    break
                self._take(address, incoming, host_of(peer), peer[1])
            self._driver.act()

    def _take(self, address: str, sock: socket.socket, peer: str, port: int) -> None:
        link = self._engine.accepted(address, peer, port, self._driver.now())
        if link is None:
            abort(sock)
            return
        stream = self._add(link, sock)
        try:
            tune(sock)
        except OSError as problem:
            self._lose(stream, problem.strerror or str(problem), by_peer=True)
            return
        self._opened(stream, (address, self._port), (peer, port))

    def _pause(self, address: str, sock: socket.socket) -> None:
        """The system has no file descriptors left: leave connections in its backlog for a while."""
        self._loop.remove_reader(sock)

        def go_on() -> None:
            if sock.fileno() >= 0:
                self._loop.add_reader(sock, self._accept, address, sock)

        self._loop.call_later(ACCEPT_PAUSE_S, go_on)

    # ---- What the engine wants

    def obey(self, wanted: Wanted) -> None:
        """Do what the engine asks for."""
        if isinstance(wanted, events.ConnectWanted):
            self._connect(wanted)
            return
        stream = self._streams.get(wanted.link.handle)
        if stream is None:
            return
        if isinstance(wanted, events.ReadWanted):
            self._watch(stream, reading=True)
        elif isinstance(wanted, events.PauseWanted):
            self._watch(stream, reading=False)
        elif stream.dialled:
            self._lose(stream, "given up", by_peer=False, reset=True)
        elif isinstance(wanted, events.CloseWanted):
            self._finish(stream)
        else:
            self._read_all(stream)
            if not stream.ended:
                self._lose(stream, "given up", by_peer=False, reset=True)

    def _connect(self, wanted: events.ConnectWanted) -> None:
        try:
            sock = self._dialler.dial(wanted.local, wanted.peer, wanted.path, wanted.npaths)
        except OSError as problem:
            self._engine.connect_failed(wanted.link, problem.strerror or str(problem), self._driver.now())
            return
        stream = self._add(wanted.link, sock, dialled=wanted)
        self._watch(stream, writing=True)

    def _connected(self, stream: Stream, wanted: events.ConnectWanted) -> None:
        """Dialling has ended one way or the other."""
        self._watch(stream, writing=False)
        number = stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        try:
            if number:
                raise OSError(number, os.strerror(number))
            tune(stream.sock)
            local, peer = stream.sock.getsockname(), stream.sock.getpeername()
        except OSError as problem:
            why = problem.strerror or str(problem)
            if problem.errno in _ENDED_AT_ONCE:
                stream.dialled = None
                self._engine.connected(wanted.link, self._driver.now())
                self._lose(stream, why, by_peer=True, reset=True)
            else:
                self._remove(stream)
                abort(stream.sock)
                self._engine.connect_failed(wanted.link, why, self._driver.now())
        else:
            stream.dialled = None
            wanted.link.local_port = local[1]
            self._opened(stream, (wanted.local, local[1]), (wanted.peer, peer[1]))
            self._engine.connected(wanted.link, self._driver.now())

    def _finish(self, stream: Stream) -> None:
        """Send FIN behind what the system has taken; what it had not is sent again on another connection."""
        stream.pending = []
        stream.finished = True
        self._watch(stream, writing=False)
        try:
            stream.sock.shutdown(socket.SHUT_WR)
        except OSError as problem:
            self._lose(stream, problem.strerror or str(problem), by_peer=True, reset=True)
            return
        if stream.tap is not None:
            stream.tap.closed(stream.key, reset=False, by_peer=False)
        # A link that was parked has not been read until now; one that is paused goes on by itself.
        if not stream.link.held:
            self._watch(stream, reading=True)

    # ---- Writing

    def flush(self, link: BaseLink) -> bool:
        """Write what the engine has for a link, as far as the system takes it."""
        stream = self._streams.get(link.handle)
        if stream is not None and not (stream.dialled or stream.finished or stream.pending):
            self._fill(stream)
            self._follow(stream)
        return True

    def _fill(self, stream: Stream) -> None:
        engine, link = self._engine, stream.link
        try:
            while not stream.pending:
                buffers = engine.data_to_send(link, WRITE_BYTES)
                if not buffers:
                    break
                stream.write(buffers)
            else:
                engine.counters.tcp_sndbuf_full += 1
        except OSError:
            # The reading side gets the same error, behind what the peer had sent before.
            stream.pending = []

    def _follow(self, stream: Stream) -> None:
        """Wait for room, and for acknowledgements, after a write."""
        self._watch(stream, writing=bool(stream.pending))
        if stream.acked < stream.written and not stream.waiting:
            stream.waiting = True
            self._unacked.add(stream)
            self._written = True
            if not self._ack_alarm.is_set:
                self._ack_delay = ACK_FIRST_S
                self._ack_alarm.set(self._driver.now() + self._ack_delay)

    def settle(self) -> None:
        """Do nothing: ``flush`` leaves nothing to the loop."""

    def _writable(self, stream: Stream) -> None:
        self._engine.counters.tcp_write_space_calls += 1
        try:
            stream.write(stream.pending)
        except OSError:
            stream.pending = []
        if not stream.pending:
            self._fill(stream)
        self._update_acked(stream)
        self._follow(stream)

    # ---- Acknowledgements

    def _ask_acks(self) -> None:
        if not self._driver.turn.politely(self._take_acks):
            self._ack_alarm.set(self._driver.now() + self._ack_delay)

    def _take_acks(self) -> None:
        news = self._check_acks()
        news |= self._written
        self._written = False
        if self._unacked or news:
            if self._polled:
                self._ack_delay = min(2 * self._ack_delay, ACK_POLLED_S)
            else:
                self._ack_delay = ACK_FIRST_S if news else min(2 * self._ack_delay, ACK_LONGEST_S)
            self._polled = False
            self._ack_alarm.set(self._driver.now() + self._ack_delay)
        self._driver.act()

    def check_acks(self, *, polling: bool = False) -> None:
        """Ask the system about all streams that wait for acknowledgements."""
        self._polled |= polling
        self._check_acks()

    def _check_acks(self) -> bool:
        news = False
        for stream in list(self._unacked):
            news |= self._update_acked(stream)
        return news

    def _update_acked(self, stream: Stream) -> bool:
        try:
            news = stream.update_acked()
        except OSError:
            news = False
        if news:
            self._engine.bytes_acked(stream.link, stream.acked, self._driver.now())
        if stream.acked >= stream.written and stream.waiting:
            stream.waiting = False
            self._unacked.discard(stream)
        return news

    # ---- Reading

    def _readable(self, stream: Stream) -> int:
        """Read, and take news of acknowledgements; gives how many bytes of long payloads came."""
        count = 0
        if stream.fresh:
            # What a peer sent on path 0 before it fanned out is to be read before anything on the others.
            first = stream.link.owner.first_link()
            if first is not None and first is not stream.link:
                before = self._streams.get(first.handle)
                if before is not None and before.reading:
                    self._read_all(before)
        if not stream.ended:
            count = self._read(stream, TURN_BYTES, TURN_LONG_BYTES)
        if not stream.ended:
            if stream.asked:
                stream.notice()
            if stream.waiting:
                self._update_acked(stream)
        return count

    def _read(self, stream: Stream, limit: int, limit_long: int) -> int:
        """Read until the system has no more, or ``limit`` bytes have come, or ``limit_long`` of long payloads.

        Gives how many of long payloads came.
        """
        stream.fresh = False
        count = self._take_bytes(stream, limit, limit_long)
        if not stream.ended:
            stream.wait_for(stream.link.deframer.worth_waking)
        return count

    def _take_bytes(self, stream: Stream, limit: int, limit_long: int) -> int:
        engine, now, link = self._engine, self._driver.now, stream.link
        deframer, long = link.deframer, 0
        while limit > 0 and long < limit_long:
            # A tap wants the bytes themselves.
            placing = deframer.roomy and stream.tap is None
            try:
                if placing:
                    room = deframer.room(unread(stream.sock))
                    size = sum(map(len, room))
                    count = self._read_into(room, stream.sock)
                else:
                    size = min(deframer.best_read(READ_BYTES), READ_LONG_BYTES)
                    data = stream.sock.recv(size)
                    count = len(data)
            except (BlockingIOError, InterruptedError):
                if placing:
                    deframer.placed(0, now())
                return long
            except OSError as problem:
                self._lose(stream, problem.strerror or str(problem), by_peer=True, reset=True)
                return long
            if not count:
                self._lose(stream, "closed by the peer", by_peer=True)
                return long
            if placing:
                engine.bytes_placed(link, count, now())
                long += count
            else:
                if stream.tap is not None:
                    stream.tap.received(stream.key, data)
                engine.bytes_received(link, data, now())
                limit -= count
            if count < size or not link.reading:
                break
        return long

    def _read_into(self, room: Sequence[memoryview | bytearray], sock: socket.socket) -> int:
        """Read into ``room``; gives how many bytes. Raises ``OSError``.

        Copying takes longer than all else. Threads of the application take meanwhile what came before: else it piles
        up, and is copied out of the processor's cache and into it again. None of them reads or closes a connection.
        """
        lock = self._driver.lock
        lock.release()
        try:
            return sock.recvmsg_into(room)[0]
        finally:
            lock.acquire()

    def _read_all(self, stream: Stream) -> None:
        """Read what the system has; a peer that goes on sending cannot prolong it beyond two receive buffers."""
        try:
            limit = READ_BYTES + stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        except OSError:
            limit = READ_BYTES
        self._read(stream, limit, limit)

    # ---- Keeping track

    def _add(self, link: Link, sock: socket.socket, dialled: events.ConnectWanted | None = None) -> Stream:
        stream = Stream(next(self._keys), link, sock, self._tap, dialled)
        stream.ready = partial(self._ready, stream)
        link.handle = stream.key
        self._streams[stream.key] = stream
        return stream

    def set_tap(self, tap: Tap | None) -> None:
        """Tell this tap from now on, or none; it is told first of the connections that are open."""
        self._tap = tap
        for stream in self._streams.values():
            stream.tap = tap
            if tap is not None and stream.ends is not None:
                tap.joined(stream.key, *stream.ends, stream.written, ended=stream.finished)

    def _opened(self, stream: Stream, local: HostPort, peer: HostPort) -> None:
        stream.ends = local, peer
        if stream.tap is not None:
            stream.tap.opened(stream.key, local, peer, incoming=stream.link.incoming)
        if stream.link.reading:
            self._watch(stream, reading=True)

    def _watch(self, stream: Stream, *, reading: bool | None = None, writing: bool | None = None) -> None:
        """From now on see to what comes, and to room, or not; None leaves it as it is."""
        if reading is not None:
            stream.reading = reading
        if writing is not None:
            stream.writing = writing
        self._lookout.watch(stream.sock, READ * stream.reading | WRITE * stream.writing, stream.ready)

    def _ready(self, stream: Stream, happened: int) -> int:
        """A socket is ready for what was waited for, or was so before others were seen to.

        Gives how many bytes of long payloads came.
        """
        if stream.dialled:
            self._connected(stream, stream.dialled)
            return 0
        count = self._readable(stream) if happened & READ and stream.reading else 0
        if happened & WRITE and stream.writing:
            self._writable(stream)
        return count

    def _remove(self, stream: Stream) -> None:
        stream.ended = True
        self._streams.pop(stream.key, None)
        self._unacked.discard(stream)
        self._watch(stream, reading=False, writing=False)
        del stream.ready  # which holds the stream

    def _lose(self, stream: Stream, why: str, *, by_peer: bool, reset: bool = False) -> None:
        """A connection has ended, and all that came on it has been handed on."""
        if not stream.dialled:
            self._update_acked(stream)
            if stream.tap is not None:
                stream.tap.closed(stream.key, reset=reset, by_peer=by_peer)
        self._remove(stream)
        if reset:
            abort(stream.sock)
        else:
            stream.sock.close()
        self._engine.connection_lost(stream.link, why, self._driver.now())

    def open_links(self) -> int:
        """TCP connections that are open or being opened."""
        return len(self._streams)

    def close(self) -> None:
        """Stop listening, and reset what is still open."""
        self._ack_alarm.stop()
        for _, sock in self._listeners:
            self._loop.remove_reader(sock)
            sock.close()
        self._listeners.clear()
        for stream in list(self._streams.values()):
            self._remove(stream)
            if stream.tap is not None and not stream.dialled:
                stream.tap.closed(stream.key, reset=True, by_peer=False)
            abort(stream.sock)
