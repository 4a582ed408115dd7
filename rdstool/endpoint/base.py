"""What asyncio's sockets and the blocking ones have in common: names, options, closing. Nothing here waits."""

from __future__ import annotations

import errno
import struct
import sys
import time
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Self

from rdstool.endpoint import constants as c
from rdstool.protocol import sockets as engine
from rdstool.protocol.addresses import canonical
from rdstool.protocol.errors import SocketError
from rdstool.protocol.ib.memory import Memory, RdmaFlags
from rdstool.protocol.inbox import LATENCY_POINTS
from rdstool.protocol.received import Poll, ReceivedMessage, Timestamp
from rdstool.transport.scopes import host_of, scoped

if TYPE_CHECKING:
    from rdstool.transport.driver import Driver

Address = tuple[str, int]
"""IP address and RDS port. Longer ones, as IPv6 has them in the standard library, are taken too, with their scope."""

_SOCKADDR_IN = struct.Struct(">2xH4s8x")
_SOCKADDR_IN6 = struct.Struct(">2xH4x16s4s")
_TIMEVAL = struct.Struct("@ll")
_INT = struct.Struct("@i")
_TIMESTAMPS = {c.SO_TIMESTAMP, c.SO_TIMESTAMP_NEW}
"""Options of either level."""


class SocketBase:
    """One RDS socket on a node. Every call that touches the engine holds the driver's lock."""

    def __init__(self, driver: Driver, inner: engine.Socket) -> None:
        self._driver = driver
        self._inner = inner
        self.send_timeout_s: float | None = None
        """SO_SNDTIMEO; None waits for ever."""
        self.receive_timeout_s: float | None = None
        """SO_RCVTIMEO; None waits for ever."""

    # ---- Names

    def getsockname(self) -> Address:
        """Own address and port; ("", 0) while unbound."""
        return self._inner.address, self._inner.port

    def getpeername(self) -> Address:
        """The default destination. Raises ``SocketError`` (ENOTCONN) where there is none."""
        if self._inner.peer is None:
            raise SocketError(errno.ENOTCONN, "the socket has no default destination")
        return self._inner.peer

    def connect(self, address: Address) -> None:
        """Set the default destination; nothing is sent. Raises ``SocketError``: EDESTADDRREQ, EINVAL."""
        with self._driver.lock:
            self._inner.connect(*given(address))

    # ---- Options

    @property
    def has_rdma(self) -> bool:
        """It is bound to an address whose transport has RDMA."""
        return self._inner.address in self._inner.node.registrars

    def setsockopt(self, level: int, option: int, value: int | bytes | Address) -> None:
        """Set an option by the kernel's numbers (protocol.md §9.1).

        ``value`` is an int, the bytes that the kernel takes, or for RDS_CANCEL_SENT_TO an address and port. Raises
        ``SocketError``: EINVAL, ENOPROTOOPT, and what the option itself gives.
        """
        with self._driver.lock:
            if option in _TIMESTAMPS and level in {c.SOL_RDS, c.SOL_SOCKET}:
                self._inner.timestamps = bool(_number(value))
            elif level == c.SOL_RDS:
                self._set_rds(option, value)
            elif level == c.SOL_SOCKET:
                self._set_generic(option, value)
            else:
                raise SocketError(errno.ENOPROTOOPT, f"a socket of RDS has no options of level {level}")
            self._driver.kick()

    def _set_rds(self, option: int, value: int | bytes | Address) -> None:
        inner = self._inner
        if option == c.RDS_CANCEL_SENT_TO:
            inner.cancel_sent_to(*_destination(value))
        elif option == c.RDS_RECVERR:
            inner.recverr = bool(_number(value))
        elif option == c.RDS_CONG_MONITOR:
            inner.set_congestion_monitor(bool(_number(value)))
        elif option == c.SO_RDS_TRANSPORT:
            inner.set_transport(_number(value))
        elif option == c.SO_RDS_MSG_RXPATH_LATENCY:
            if not isinstance(value, bytes) or len(value) != 1 + LATENCY_POINTS:
                raise SocketError(errno.EFAULT, f"latency points are a count and {LATENCY_POINTS} bytes for points")
            inner.trace_latency(*value[1 : 1 + value[0]])
        else:
            raise SocketError(errno.ENOPROTOOPT, f"RDS has no option {option} that can be set here")

    def _set_generic(self, option: int, value: int | bytes | Address) -> None:
        if option in {c.SO_SNDBUF, c.SO_RCVBUF}:
            size = _number(value)
            if size < 0:
                raise SocketError(errno.EINVAL, f"a buffer of {size} bytes")
            if option == c.SO_SNDBUF:
                self._inner.sndbuf = max(size, c.LEAST_SNDBUF)
            else:
                self._inner.rcvbuf = max(size, c.LEAST_RCVBUF)
        elif option in {c.SO_SNDTIMEO, c.SO_RCVTIMEO}:
            seconds = _seconds(value)
            if option == c.SO_SNDTIMEO:
                self.send_timeout_s = seconds
            else:
                self.receive_timeout_s = seconds
        elif option == c.SO_ZEROCOPY:
            on = _number(value)
            if on not in {0, 1}:
                raise SocketError(errno.EINVAL, f"zerocopy is on or off, 1 or 0, not {on}")
            self._inner.zerocopy = bool(on)
        else:
            raise SocketError(errno.ENOPROTOOPT, f"option {option} has no meaning for RDS")

    def getsockopt(self, level: int, option: int) -> int:
        """Read an option. Buffer sizes are doubled, as Linux gives them. Raises ``SocketError`` (ENOPROTOOPT)."""
        inner = self._inner
        known = {
            (c.SOL_RDS, c.RDS_RECVERR): int(inner.recverr),
            (c.SOL_RDS, c.SO_RDS_TRANSPORT): inner.get_transport(),
            (c.SOL_SOCKET, c.SO_SNDBUF): 2 * inner.sndbuf,
            (c.SOL_SOCKET, c.SO_RCVBUF): 2 * inner.rcvbuf,
            (c.SOL_SOCKET, c.SO_ZEROCOPY): int(inner.zerocopy),
            (c.SOL_SOCKET, c.SO_TYPE): c.SOCK_SEQPACKET,
            (c.SOL_SOCKET, c.SO_DOMAIN): c.AF_RDS,
            **{(c.SOL_SOCKET, option): 0 for option in (c.SO_PROTOCOL, c.SO_ERROR, c.SO_ACCEPTCONN)},
            **{(c.SOL_SOCKET, option): int(inner.timestamps) for option in _TIMESTAMPS},
        }
        if (level, option) not in known:
            raise SocketError(errno.ENOPROTOOPT, f"option {option} of level {level} cannot be read")
        return known[level, option]

    def set_tos(self, tos: int) -> None:
        """SIOCRDSSETTOS, once and before the first message. Raises ``SocketError``: ENOTTY while unbound, EINVAL."""
        with self._driver.lock:
            self._inner.set_tos(tos)

    def get_tos(self) -> int:
        """SIOCRDSGETTOS: the type of service; 0 over TCP, which has no other."""
        return self._inner.tos

    def cancel_sent_to(self, address: Address) -> int:
        """RDS_CANCEL_SENT_TO: forget what is queued or unacknowledged to one destination; returns how many messages."""
        with self._driver.lock:
            count = self._inner.cancel_sent_to(*given(address))
            self._driver.kick()
            return count

    # ---- Memory for RDMA, over InfiniBand

    def offer_memory(
        self, memory: Memory, flags: RdmaFlags = RdmaFlags.READWRITE, *, destination: Address | None = None
    ) -> int:
        """RDS_GET_MR: let peers that know the cookie read this memory, and with READWRITE write to it.

        With ``destination`` RDS_GET_MR_FOR_DEST, which does the same in the kernel too: it keeps nobody else away.

        Returns the cookie. Tell it to a peer with ``control=[RdmaDest(cookie)]``, or in any other way. Raises
        ``SocketError``: ENOTCONN, EOPNOTSUPP over TCP, EMSGSIZE above 1 MiB, EINVAL where the destination is none.
        """
        if destination is not None:
            try:
                canonical(destination[0])
            except ValueError:
                raise SocketError(errno.EINVAL, f"{destination[0]!r} is not an IP address") from None
        with self._driver.lock:
            return self._inner.offer_memory(memory, flags)

    def free_memory(self, cookie: int) -> None:
        """RDS_FREE_MR: no peer can use the memory any more. Raises ``SocketError`` (EINVAL) where it is not ours."""
        with self._driver.lock:
            self._inner.free_memory(cookie)

    # ---- Receiving

    def _dated(self, message: ReceivedMessage) -> ReceivedMessage:
        """The message with times of day instead of the engine's."""
        since = time.time() - self._driver.now()
        dated = (Timestamp(since + item.time) if isinstance(item, Timestamp) else item for item in message.control)
        return message._replace(control=tuple(dated))

    # ---- State

    def poll(self) -> Poll:
        """What can be done without waiting (§9.6)."""
        with self._driver.lock:
            return self._inner.poll()

    @property
    def unacknowledged(self) -> int:
        """Messages that are queued or not acknowledged."""
        return self._inner.outstanding

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._inner.closed

    def close(self) -> None:
        """Free the port. As in the kernel, messages that are not acknowledged are given up: ``drain`` first."""
        with self._driver.lock:
            self._inner.close()
            self._driver.kick()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._inner}>"


def given(address: Address) -> Address:
    """An address in the form that the engine takes; programs may give longer ones, as IPv6 has them."""
    return address if len(address) == 2 else (host_of(address), address[1])


def was_closed() -> SocketError:
    """The error of a call on a closed socket."""
    return SocketError(errno.EBADF, "the socket was closed")


def not_bound() -> SocketError:
    """The error of waiting on a socket that has no address and port."""
    return SocketError(errno.ENOTCONN, "the socket is not bound, nothing can come")


def _number(value: int | bytes | Address) -> int:
    if isinstance(value, bytes) and len(value) >= _INT.size:
        return int(_INT.unpack_from(value)[0])
    if isinstance(value, int):
        return value
    raise SocketError(errno.EINVAL, f"{value!r} is not a number")


def _seconds(value: int | bytes | Address) -> float | None:
    """The timeout that a struct timeval or a number of seconds sets; None, to wait for ever, for 0."""
    if isinstance(value, bytes) and len(value) == _TIMEVAL.size:
        whole, micro = _TIMEVAL.unpack(value)
        seconds = whole + micro / 1e6
    else:
        seconds = float(_number(value))
    return seconds or None


def _destination(value: int | bytes | Address) -> Address:
    """An address and port, or the bytes of a sockaddr_in or sockaddr_in6."""
    if isinstance(value, tuple):
        return given(value)
    if isinstance(value, bytes) and len(value) == _SOCKADDR_IN.size:
        port, packed = _SOCKADDR_IN.unpack(value)
        return str(IPv4Address(packed)), port
    if isinstance(value, bytes) and len(value) == _SOCKADDR_IN6.size:
        port, packed, scope = _SOCKADDR_IN6.unpack(value)
        return scoped(str(IPv6Address(packed)), int.from_bytes(scope, sys.byteorder)), port
    raise SocketError(errno.EINVAL, "RDS_CANCEL_SENT_TO takes an address and port")
