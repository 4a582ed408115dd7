"""AF_RDS sockets that the host opens in the guest, each known by a number."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count

from rdstool.afrds.numbers import Transport
from rdstool.afrds.sockets import cancel_sent_to, family_of, open_socket
from rdstool.lab.agent.alarms import Alarms
from rdstool.lab.agent.server import as_text
from rdstool.lab.content import digest, payload

TYPE_CHECKING = False  # as in ``typing``, which is slow to import in a guest
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]

_MESSAGE_BYTES = 1 << 20
"""The longest message that RDS takes."""

_CONTROL_BYTES = 1024

_SIGNAL_AFTER_S = 0.5
"""After the time in which the kernel should have given up by itself."""

_EVENTS = {"in": select.POLLIN, "out": select.POLLOUT, "band": select.POLLWRBAND}
_FLAGS = {
    "peek": socket.MSG_PEEK,
    "trunc": socket.MSG_TRUNC,
    "nonblocking": socket.MSG_DONTWAIT,
    "oob": socket.MSG_OOB,
    "zerocopy": 0x4000000,
}


class Sockets:
    """Sockets by their numbers."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._timeouts: dict[int, float] = {}
        self._numbers = count(1)
        self._alarms = Alarms()

    def open(
        self,
        address: str | None = None,
        port: int = 0,
        transport: str | None = None,
        sndbuf: int | None = None,
        rcvbuf: int | None = None,
        family: int | None = None,
        many: int = 1,
    ) -> list[Record]:
        """Open and bind sockets; the kernel picks ports that are 0. Without an address, they stay unbound."""
        chosen = Transport[transport.upper()] if transport is not None else None
        made: list[Record] = []
        try:
            for _ in range(many):
                number, sock = next(self._numbers), open_socket(family or family_of(address or ""), chosen)
                self._sockets[number] = sock
                made.append({"socket": number})
                for option, value in ((socket.SO_SNDBUF, sndbuf), (socket.SO_RCVBUF, rcvbuf)):
                    if value is not None:
                        sock.setsockopt(socket.SOL_SOCKET, option, value)
                if address is not None:
                    sock.bind((address, port))
                    made[-1]["address"], made[-1]["port"] = sock.getsockname()[:2]
        except OSError:
            self.close([record["socket"] for record in made])
            raise
        return made

    def close(self, sockets: list[int] | None = None) -> None:
        """Close these sockets, or all."""
        for number in list(self._sockets) if sockets is None else sockets:
            sock = self._sockets.pop(number, None)
            if sock is not None:
                sock.close()

    def connect(self, sock: int, address: str, port: int) -> None:
        """Set the default destination."""
        self._sockets[sock].connect((address, port))

    def send(
        self,
        sock: int,
        to: tuple[str, int] | None,
        size: int | None = None,
        seed: int = 0,
        data: str | None = None,
        flags: Iterable[str] = (),
        control: Iterable[tuple[int, int, str]] = (),
        timeout: float = 30.0,
    ) -> int:
        """Send one message, of ``payload(seed, size)`` or of base64 ``data``; the bytes that the kernel took."""
        text = a2b_base64(data) if data is not None else payload(seed, size or 0)
        cmsgs = [(level, kind, a2b_base64(value)) for level, kind, value in control]
        with self._in_time(sock, timeout):
            return self._sockets[sock].sendmsg([text], cmsgs, _flags(flags), *((tuple(to),) if to else ()))

    def send_many(
        self,
        messages: list[tuple[int, str, int, int, int]],
        nonblocking: bool = False,
        stop: bool = True,
        timeout: float = 30.0,
    ) -> list[str | None]:
        """Send messages, each (socket, address, port, size, seed); None or the errno's name for each that was tried.

        With ``stop``, the first that fails is the last that is tried. ``timeout`` is for each.
        """
        results: list[str | None] = []
        flags = socket.MSG_DONTWAIT if nonblocking else 0
        for number, address, port, size, seed in messages:
            data = payload(seed, size)
            try:
                with nullcontext() if nonblocking else self._in_time(number, timeout):
                    self._sockets[number].sendmsg([data], [], flags, (address, port))
                results.append(None)
            except OSError as problem:
                results.append(_name(problem))
                if stop:
                    break
        return results

    @contextmanager
    def _in_time(self, sock: int, timeout: float) -> Iterator[None]:
        """Let a call that blocks end in time: where the send queue is full, and where the peer's handshake is awaited.

        The kernel heeds SO_SNDTIMEO in the first case only. In the other it waits for ever; a signal ends that wait;
        it then queues the message without knowing the peer's number of paths (net/rds/send.c, rds_send_mprds_hash).
        """
        if self._timeouts.get(sock) != timeout:
            whole, part = divmod(timeout, 1)
            value = struct.pack("=qq", int(whole), int(part * 1_000_000))
            self._sockets[sock].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._timeouts[sock] = timeout
        with self._alarms.after(timeout + _SIGNAL_AFTER_S):
            yield

    def receive(
        self,
        sock: int,
        timeout: float | None = None,
        size: int = _MESSAGE_BYTES,
        flags: Iterable[str] = (),
        data: bool = False,
    ) -> Record:
        """Receive one message, at most ``size`` bytes of it. ETIMEDOUT after ``timeout`` seconds."""
        chosen = self._sockets[sock]
        given = _flags(flags)
        if timeout is None:
            return _receive(sock, chosen, size, given, with_data=data)
        deadline = time.monotonic() + timeout
        while True:
            try:
                return _receive(sock, chosen, size, given | socket.MSG_DONTWAIT, with_data=data)
            except BlockingIOError:
                # Readable may also mean that a congestion map changed: no promise of a message (protocol.md §9.6).
                if not _wait([chosen], max(deadline - time.monotonic(), 0)):
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None

    def receive_many(self, sockets: list[int], messages: int, timeout: float) -> list[Record]:
        """Receive from several sockets until there are ``messages``, or ``timeout`` seconds went by; what came."""
        chosen = {self._sockets[number].fileno(): number for number in sockets}
        found: list[Record] = []
        deadline = time.monotonic() + timeout
        while len(found) < messages:
            ready = _wait([self._sockets[number] for number in sockets], max(deadline - time.monotonic(), 0))
            if not ready:
                break
            for descriptor in ready:
                number = chosen[descriptor]
                while len(found) < messages:
                    try:
                        found.append(_receive(number, self._sockets[number], _MESSAGE_BYTES, socket.MSG_DONTWAIT))
                    except BlockingIOError:
                        break
        return found

    def poll(self, sock: int, events: Iterable[str], timeout: float) -> list[str]:
        """Wait for events of ``in``, ``out``, ``band``; those that there are."""
        poller = select.poll()
        poller.register(self._sockets[sock], sum(_EVENTS[name] for name in events))
        found = sum(mask for _, mask in poller.poll(timeout * 1000))
        return [name for name, mask in _EVENTS.items() if found & mask]

    def set_option(self, sock: int, level: int, option: int, value: int | str) -> None:
        """Set an option to a number, or to base64 bytes."""
        self._sockets[sock].setsockopt(level, option, a2b_base64(value) if isinstance(value, str) else value)

    def cancel(self, sock: int, address: str, port: int) -> None:
        """Cancel what was sent to a destination (RDS_CANCEL_SENT_TO)."""
        cancel_sent_to(self._sockets[sock], address, port)


def _flags(names: Iterable[str]) -> int:
    return sum(_FLAGS[name] for name in names)


def _name(problem: OSError) -> str:
    return errno.errorcode.get(problem.errno or 0, str(problem.errno))


def _wait(sockets: list[socket.socket], timeout: float) -> list[int]:
    poller = select.poll()
    for each in sockets:
        poller.register(each, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(timeout * 1000)]


def _receive(number: int, sock: socket.socket, size: int, flags: int, *, with_data: bool = False) -> Record:
    data, control, given, address = sock.recvmsg(size, _CONTROL_BYTES, flags)
    record: Record = {
        "socket": number,
        "from": list(address[:2]) if address else None,
        "length": len(data),
        "sha256": digest(data),
        "flags": given,
        "control": [[level, kind, as_text(value)] for level, kind, value in control],
    }
    if with_data:
        record["data"] = as_text(data)
    return record
