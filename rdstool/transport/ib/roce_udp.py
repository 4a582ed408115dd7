"""The sockets of the userspace RoCE provider: UDP port 4791, without privileges.

What an ICRC covers has to be known to whoever computes it. Path-MTU discovery makes Linux send don't-fragment with the
identification 0 on sockets that are not connected (``net/ipv4/ip_output.c``, ``ip_select_ident``), and the source port
is that of the socket: so there is one socket that receives, and a few that only send, for links that spread flows by
source port. Wherever an adapter or the kernel's ``rdma_rxe`` uses the address, port 4791 is taken.

Datagrams of a burst are given to Linux by one call and cut apart by it or by the adapter (UDP_SEGMENT), each with its
place in the burst as identification; on loopback, and into another namespace of this machine, a burst goes whole, and
is received by one call (UDP_GRO). That needs UDP checksums, which the ICRC does not cover. Where the way to a peer
cannot do that, datagrams go one by one from then on.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from random import Random, SystemRandom

from dissectors.wire.encapsulation import ROCE_FIRST_SOURCE_PORT, ROCE_UDP_PORT
from dissectors.wire.icrc import MAX_PACKET_BYTES
from rdstool.errors import AddressError, TransportError
from rdstool.protocol.addresses import canonical, parsed
from rdstool.protocol.ib.memory import Access, Region
from rdstool.transport.ib.provider import ConnectionOptions, Event
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.device import Device, Outgoing, Tap
from rdstool.transport.ib.roce.flow import MAX_BURST
from rdstool.transport.ib.roce.memory import MemoryRegion
from rdstool.transport.ib.roce.numbers import MTU_CODES
from rdstool.transport.scopes import SocketAddress, host_of, socket_address

SENDERS = 4
"""Sockets that send, each with a source port of its own."""
_PORT_ATTEMPTS = 64
MAX_UDP_BYTES = 0xFFFF
RECEIVE_BUFFER_BYTES = 8 << 20
"""Asked for; without privileges the system gives what ``net.core.rmem_max`` allows."""
SEND_BUFFER_BYTES = 4 << 20
RECEIVE_BATCH = 64
"""Datagrams that are received before answers go out."""
ROUNDS = 64
"""Times that we receive and send before the owner has its turn."""
BLOCKED_WAIT_S = 0.0005
"""Pause after the send buffer was full."""

# Of linux/in.h, linux/in6.h and linux/udp.h; the socket module lacks them.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
_IP_MTU, _IPV6_MTU = 14, 24
_MAX_HEADER_BYTES = 80
"""Headers of IP, UDP and the transport together, at most (``RXE_MAX_HDR_LENGTH``)."""
_UDP_SEGMENT, _UDP_GRO = 103, 104
_SEGMENT = struct.Struct("=H")
_GRO_SIZE = struct.Struct("=i")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_GRO_SIZE.size)
_CANNOT_CUT = {errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP}
"""Errors of a burst that say: never on this way."""
_UDP_NO_CHECK6_RX = 102
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class RoceProvider:
    """InfiniBand at one local IP address, over UDP. Implements ``provider.Provider``.

    ``random`` chooses keys, numbers and ports; the default is the system's. ``tap`` gets whole frames, for a capture.
    ``make_socket`` makes a socket of a family and kind, in another network namespace, say.
    Raises ``TransportError`` where the address is not local or its port 4791 is taken.
    """

    def __init__(
        self,
        address: str,
        random: Random | None = None,
        tap: Tap | None = None,
        senders: int = SENDERS,
        make_socket: Callable[[int, int], socket.socket] = socket.socket,
    ) -> None:
        chooser = random or SystemRandom()
        try:
            self.address = canonical(address)
        except ValueError:
            raise TransportError(f"{address} is not an IP address") from None
        self._family = socket.AF_INET if parsed(self.address).version == 4 else socket.AF_INET6
        self._make_socket = make_socket
        self._receiver = self._open(ROCE_UDP_PORT)
        self._joins = _set(self._receiver, _UDP_GRO, 1)
        """Bursts are received whole."""
        self._senders: dict[int, socket.socket] = {}
        try:
            while len(self._senders) < senders:
                sender = self._open_sender(chooser)
                self._senders[sender.getsockname()[1]] = sender
        except TransportError:
            self.close()
            raise
        self._unsent: deque[Outgoing] = deque()
        self._blocked_until: float | None = None
        self.send_errors: dict[str, int] = {}
        """Errors that the system gave for datagrams, by name; each counts as a datagram lost."""
        self.device = Device(self.address, chooser, tuple(self._senders), tap)
        if all(_set(sender, _UDP_SEGMENT, 0) for sender in self._senders.values()):
            self.device.burst = MAX_BURST

    def _open(self, port: int) -> socket.socket:
        """A socket whose packets have known headers."""
        made = self._make_socket(self._family, socket.SOCK_DGRAM)
        made.setblocking(False)
        if self._family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
            made.setsockopt(socket.IPPROTO_UDP, _UDP_NO_CHECK6_RX, 1)
        for forced, usual, size in (
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
        ):
            try:
                made.setsockopt(socket.SOL_SOCKET, forced, size)
            except OSError:
                made.setsockopt(socket.SOL_SOCKET, usual, size)
        try:
            made.bind(socket_address(self.address, port)[1])
        except OSError as error:
            made.close()
            raise AddressError(
                error.errno,
                f"UDP port {port} of {self.address} cannot be used ({error.strerror}): "
                "give an address of this machine that no other RoCE device uses",
            ) from None
        return made

    def _open_sender(self, random: Random) -> socket.socket:
        for _ in range(_PORT_ATTEMPTS):
            with contextlib.suppress(TransportError):
                return self._open(random.randrange(ROCE_FIRST_SOURCE_PORT, 0x10000))
        raise TransportError(f"no UDP port of {self.address} above {ROCE_FIRST_SOURCE_PORT} is free")

    # ---- For the owner

    def listen(self, service_id: int) -> None:
        """Take connection requests for a service."""
        self.device.listen(service_id)

    def stop_listening(self, service_id: int) -> None:
        """Take no more of them."""
        self.device.stop_listening(service_id)

    def connect(
        self, peer: str, service_id: int, private_data: bytes = b"", options: ConnectionOptions | None = None
    ) -> RoceConnection:
        """Ask a peer for a connection."""
        return self.device.connect(peer, service_id, private_data, options)

    def path_mtu(self, peer: str) -> int:
        """What fits the network device on the way to a peer, as Soft-RoCE reckons it (``rxe_mtu_int_to_enum``)."""
        version4 = self._family == socket.AF_INET
        level, option = (socket.IPPROTO_IP, _IP_MTU) if version4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
        try:
            with self._make_socket(self._family, socket.SOCK_DGRAM) as probe:
                probe.bind(socket_address(self.address, 0)[1])
                probe.connect(socket_address(peer, ROCE_UDP_PORT)[1])
                room = probe.getsockopt(level, option) - _MAX_HEADER_BYTES
        except OSError as error:
            raise TransportError(f"{self.address} has no way to {peer} ({error.strerror})") from None
        return max((size for size in MTU_CODES if size <= room), default=min(MTU_CODES))

    def register(self, memory: bytearray | memoryview, access: Access) -> MemoryRegion:
        """Make memory known. Its address is 0."""
        return self.device.register(memory, access)

    def deregister(self, region: Region) -> None:
        """Make the keys of a region void."""
        self.device.deregister(region)

    def set_tap(self, tap: Tap | None) -> None:
        """Give each packet as a frame to ``tap``, or to none."""
        self.device.tap = tap

    def filenos(self) -> Sequence[int]:
        """The receiving socket's number."""
        return (self._receiver.fileno(),)

    def next_timer(self) -> float | None:
        """When ``process`` has to be called at the latest."""
        due = self.device.next_timer()
        if self._blocked_until is None:
            return due
        return self._blocked_until if due is None else min(due, self._blocked_until)

    def process(self, now: float) -> list[Event]:
        """Receive, do what is due, send."""
        device = self.device
        self._blocked_until = None
        for _ in range(ROUNDS):
            received = self._receive(now)
            sent = self._send(now)
            if not received and not sent:
                break
        return device.take_events()

    def close(self) -> None:
        """Close the sockets. Connections are not told: disconnect them first."""
        for made in (self._receiver, *self._senders.values()):
            made.close()

    def inject(self, connection: RoceConnection, packet: bytes, *, good: bool = True) -> None:
        """Send a packet (BTH and what follows, without ICRC) with the next ``process``, beside the connection's own.

        For tests of peers: the connection does not know of it, and its numbers do not count it.
        """
        self._unsent.append(self.device.inject(connection, packet, good=good))

    # ---- Datagrams

    def _receive(self, now: float) -> int:
        """Hand on what has come, ``RECEIVE_BATCH`` datagrams or a burst more; tells how many."""
        count = 0
        receive = self._receive_burst if self._joins else self._receive_one
        try:
            while count < RECEIVE_BATCH:
                datagrams, address = receive()
                count += len(datagrams)
                self.device.receive(datagrams, host_of(address), address[1], now)
        except BlockingIOError:
            pass
        except OSError as error:
            self._note(error)
        return count

    def _receive_one(self) -> tuple[list[bytes], SocketAddress]:
        data, address = self._receiver.recvfrom(MAX_PACKET_BYTES + 1)
        return [data], address

    def _receive_burst(self) -> tuple[list[bytes], SocketAddress]:
        data, ancillary, _, address = self._receiver.recvmsg(MAX_UDP_BYTES, _ANCILLARY_BYTES)
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
                (size,) = _GRO_SIZE.unpack(value)
                return [data[at : at + size] for at in range(0, len(data), size)], address
        return [data], address

    def _send(self, now: float) -> int:
        """Send what there is, until the system will take no more; tells how many datagrams."""
        sent = 0
        while True:
            if not self._unsent:
                batch = self.device.transmit(now)
                if not batch:
                    return sent
                self._unsent.extend(batch)
            if not self._send_batch():
                self._blocked_until = now + BLOCKED_WAIT_S
                return sent
            sent += 1

    def _send_batch(self) -> bool:
        """Send ``_unsent``; False where the send buffer is full."""
        unsent, senders = self._unsent, self._senders
        while unsent:
            port, destination, datagrams = unsent[0]
            sender = senders[port]
            target: SocketAddress = (destination, ROCE_UDP_PORT)
            try:
                if "%" in destination:
                    target = socket_address(destination, ROCE_UDP_PORT)[1]
                if len(datagrams) == 1:
                    sender.sendto(datagrams[0], target)
                else:
                    size = _SEGMENT.pack(len(datagrams[0]))
                    sender.sendmsg(datagrams, [(socket.IPPROTO_UDP, _UDP_SEGMENT, size)], 0, target)
            except BlockingIOError:
                return False
            except OSError as error:
                self._note(error)
                if len(datagrams) > 1 and error.errno in _CANNOT_CUT:
                    self.device.burst = 1
            unsent.popleft()
        return True

    def _note(self, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        self.send_errors[name] = self.send_errors.get(name, 0) + 1


def _set(made: socket.socket, option: int, value: int) -> bool:
    """Set an option of UDP that not every system has."""
    try:
        made.setsockopt(socket.IPPROTO_UDP, option, value)
    except OSError:
        return False
    return True
