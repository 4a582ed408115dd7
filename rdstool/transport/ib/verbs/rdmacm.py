"""librdmacm, as far as connections need it: who asks for one, how it is made, and how it ends.

No call waits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from ctypes import POINTER, byref, c_int, c_size_t, c_uint8, c_uint64, c_void_p
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

from rdstool.errors import TransportError
from rdstool.protocol.addresses import canonical
from rdstool.transport.ib.verbs import layouts
from rdstool.transport.scopes import scoped, socket_address

BACKLOG = 128
"""Requests that may wait for an answer, as RDS has it."""
RESOLVE_TIMEOUT_MS = 5_000
"""To find the peer, and the way to it, each; as RDS has it (protocol.md §7.1)."""
REQUEST_ROOM, ANSWER_ROOM, REJECT_ROOM = 56, 196, 148
"""Bytes of private data of REQ, beside the IP CM header, REP and REJ (InfiniBand Architecture vol. 1, §12.6, A11)."""

_PORT_SPACE_TCP = 0x0106
_OPTION_ID, _OPTION_TOS, _OPTION_ACK_TIMEOUT = 0, 0, 3
_COMMUNICATION_ESTABLISHED = 4


class EventType(IntEnum):
    """``enum rdma_cm_event_type``."""

    ADDR_RESOLVED = 0
    ADDR_ERROR = 1
    ROUTE_RESOLVED = 2
    ROUTE_ERROR = 3
    CONNECT_REQUEST = 4
    CONNECT_RESPONSE = 5
    CONNECT_ERROR = 6
    UNREACHABLE = 7
    REJECTED = 8
    ESTABLISHED = 9
    DISCONNECTED = 10
    DEVICE_REMOVAL = 11
    MULTICAST_JOIN = 12
    MULTICAST_ERROR = 13
    ADDR_CHANGE = 14
    TIMEWAIT_EXIT = 15


_EVENT_TYPES = {int(each): each for each in EventType}


class ConnectionParameters(NamedTuple):
    """What one end asks for."""

    private_data: bytes
    responder_resources: int
    initiator_depth: int
    retry_count: int
    rnr_retry: int
    queue_pair: int


class CmEvent(NamedTuple):
    """Something has happened to a connection."""

    key: int
    """Key of the :class:`ConnectionId`; for a request, a new one."""
    listener: int
    """For a request: the key of who listens."""
    type: EventType | int
    status: int
    """Negative errno, or the reason of a REJ."""
    private_data: bytes
    responder_resources: int
    initiator_depth: int


@cache
def _cm() -> ctypes.CDLL:
    library = ctypes.CDLL("librdmacm.so.1", use_errno=True)
    library.rdma_create_event_channel.restype = POINTER(layouts.Channel)
    library.rdma_destroy_event_channel.restype = None
    return library


@cache
def _verbs() -> ctypes.CDLL:
    library = ctypes.CDLL("libibverbs.so.1", use_errno=True)
    library.ibv_reg_mr_iova.restype = POINTER(layouts.MemoryRegion)
    library.ibv_reg_mr_iova.argtypes = (c_void_p, c_void_p, c_size_t, c_uint64, c_int)
    return library


def check_room(private_data: bytes, room: int) -> None:
    """Raises ``TransportError`` where private data is too long."""
    if len(private_data) > room:
        raise TransportError(f"{len(private_data)} bytes of private data: there is room for {room}")


def _check(result: int, what: str) -> None:
    if result:
        raise TransportError(f"{what}: {os.strerror(ctypes.get_errno())}")


class ConnectionId:
    """``rdma_cm_id``: somebody who listens, or one end of a connection."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer

    @property
    def key(self) -> int:
        """What events call it by."""
        return _address_of(self._pointer)

    @property
    def domain(self) -> int:
        """The protection domain of its device, for :func:`register`; 0 before it has one."""
        return self._pointer.contents.pd or 0

    @property
    def port_number(self) -> int:
        """The port of its device."""
        return int(self._pointer.contents.port_num)

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the other end."""
        return _unpacked(bytes(self._pointer.contents.route.destination))

    def bind(self, address: str, port: int = 0) -> None:
        """Take an address of this machine, and with it the device that has it."""
        _check(_cm().rdma_bind_addr(self._pointer, _packed(address, port)), f"port {port} of {address}")

    def listen(self) -> None:
        """Begin to take requests."""
        _check(_cm().rdma_listen(self._pointer, BACKLOG), "listening")

    def set_service(self, traffic_class: int, ack_timeout: int) -> None:
        """Type of service, and the time to wait for acknowledgements, where the kernel lets them be set."""
        for option, value in ((_OPTION_TOS, traffic_class), (_OPTION_ACK_TIMEOUT, ack_timeout)):
            _cm().rdma_set_option(self._pointer, _OPTION_ID, option, byref(c_uint8(value)), 1)

    def resolve(self, address: str, peer: str, port: int) -> None:
        """Find the peer; ADDR_RESOLVED follows."""
        source, destination = _packed(address, 0), _packed(peer, port)
        done = _cm().rdma_resolve_addr(self._pointer, source, destination, RESOLVE_TIMEOUT_MS)
        _check(done, f"{address} has no way to {peer}")

    def resolve_route(self) -> None:
        """Find the way; ROUTE_RESOLVED follows."""
        _check(_cm().rdma_resolve_route(self._pointer, RESOLVE_TIMEOUT_MS), "no route")

    def connect(self, parameters: ConnectionParameters) -> None:
        """Send REQ; CONNECT_RESPONSE follows."""
        wanted, kept = _parameters(parameters)
        _check(_cm().rdma_connect(self._pointer, byref(wanted)), "connecting")
        del kept

    def accept(self, parameters: ConnectionParameters) -> None:
        """Send REP; ESTABLISHED follows."""
        wanted, kept = _parameters(parameters)
        _check(_cm().rdma_accept(self._pointer, byref(wanted)), "accepting")
        del kept

    def establish(self) -> None:
        """Send RTU."""
        _check(_cm().rdma_establish(self._pointer), "establishing")

    def heard(self) -> None:
        """Something has come over the connection: as good as the RTU that is missing."""
        _cm().rdma_notify(self._pointer, _COMMUNICATION_ESTABLISHED)

    def reject(self, private_data: bytes) -> None:
        """Send REJ, for a reason of the program's own."""
        _check(_cm().rdma_reject(self._pointer, private_data, len(private_data)), "rejecting")

    def disconnect(self) -> bool:
        """Send DREQ, or DREP where that has come; False where there is nothing to end."""
        return not _cm().rdma_disconnect(self._pointer)

    def attributes(self, state: int) -> tuple[layouts.QueuePairAttributes, int]:
        """What a queue pair needs for ``state``, and which of it counts."""
        found, mask = layouts.QueuePairAttributes(qp_state=state), c_int()
        _check(_cm().rdma_init_qp_attr(self._pointer, byref(found), byref(mask)), "attributes of the queue pair")
        return found, mask.value

    def close(self) -> None:
        """End it, whatever state it is in."""
        _cm().rdma_destroy_id(self._pointer)


class EventChannel:
    """Where events of connections come from."""

    def __init__(self) -> None:
        self._pointer = _cm().rdma_create_event_channel()
        if not self._pointer:
            raise TransportError(f"/dev/infiniband/rdma_cm: {os.strerror(ctypes.get_errno())}")
        os.set_blocking(self.fileno(), False)
        self._waiting = select.poll()
        self._waiting.register(self.fileno(), select.POLLIN)

    def fileno(self) -> int:
        """Readable when there is an event."""
        return int(self._pointer.contents.fd)

    def make(self) -> ConnectionId:
        """Make a new identifier."""
        made = POINTER(layouts.Id)()
        _check(_cm().rdma_create_id(self._pointer, byref(made), None, _PORT_SPACE_TCP), "a connection identifier")
        return ConnectionId(made)

    def next(self) -> tuple[CmEvent, ConnectionId] | None:
        """The next event, if there is one. Of a request, the identifier is new, and the caller's to close."""
        if not self._waiting.poll(0):
            return None
        pointer = POINTER(layouts.Event)()
        if _cm().rdma_get_cm_event(self._pointer, byref(pointer)):
            problem = ctypes.get_errno()
            if problem in {errno.EAGAIN, errno.EINTR}:
                return None
            raise TransportError(f"events of connections: {os.strerror(problem)}")
        found = pointer.contents
        given = found.parameters
        data = ctypes.string_at(given.private_data, given.private_data_len) if given.private_data else b""
        kind = _EVENT_TYPES.get(found.event, found.event)
        listener = _address_of(found.listen_id) if kind is EventType.CONNECT_REQUEST else 0
        identifier = ConnectionId(ctypes.cast(_address_of(found.id), POINTER(layouts.Id)))
        event = CmEvent(
            identifier.key, listener, kind, found.status, data, given.responder_resources, given.initiator_depth
        )
        _cm().rdma_ack_cm_event(pointer)
        return event, identifier

    def close(self) -> None:
        """After all identifiers of it."""
        _cm().rdma_destroy_event_channel(self._pointer)


class Registration(NamedTuple):
    """Memory that a device knows."""

    lkey: int
    rkey: int
    handle: Any


def register(domain: int, address: int, length: int, counted_from: int, access: int) -> Registration:
    """Make memory known; peers and work requests count from ``counted_from``, which begins as deep in a page.

    pyverbs lets nobody choose that, and addresses of this process do not fit the 32 bits that RDS has for them.
    """
    made = _verbs().ibv_reg_mr_iova(domain, address, length, counted_from, access)
    if not made:
        raise pinning_failed(length, ctypes.get_errno())
    return Registration(made.contents.lkey, made.contents.rkey, made)


def deregister(registration: Registration) -> None:
    """Its keys are void."""
    _verbs().ibv_dereg_mr(registration.handle)


def pinning_failed(length: int, code: int) -> TransportError:
    """Memory cannot be registered."""
    hint = "; raise its limit (ulimit -l)" if code in {errno.ENOMEM, errno.EAGAIN} else ""
    return TransportError(f"{length} bytes of memory cannot be registered: {os.strerror(code)}{hint}")


def _parameters(wanted: ConnectionParameters) -> tuple[layouts.Parameters, Any]:
    """For the library, and what has to stay until it has returned."""
    data = ctypes.create_string_buffer(wanted.private_data, max(len(wanted.private_data), 1))
    given = layouts.Parameters(
        private_data=ctypes.addressof(data),
        private_data_len=len(wanted.private_data),
        responder_resources=wanted.responder_resources,
        initiator_depth=wanted.initiator_depth,
        retry_count=wanted.retry_count,
        rnr_retry_count=wanted.rnr_retry,
        qp_num=wanted.queue_pair,
    )
    return given, data


def _address_of(pointer: Any) -> int:
    return ctypes.cast(pointer, c_void_p).value or 0


def _packed(address: str, port: int) -> bytes:
    """``struct sockaddr_in`` or ``sockaddr_in6``."""
    if ":" in address:
        _, place = socket_address(address, port)
        raw = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
        return b"".join(
            (
                struct.pack("=H", socket.AF_INET6),
                struct.pack(">HI16s", port, 0, raw),
                struct.pack("=I", place[-1]),
            )
        )
    raw = socket.inet_pton(socket.AF_INET, address)
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, raw)


def _unpacked(raw: bytes) -> tuple[str, int]:
    (family,) = struct.unpack_from("=H", raw)
    (port,) = struct.unpack_from(">H", raw, 2)
    if family == socket.AF_INET6:
        (number,) = struct.unpack_from("=I", raw, 24)
        return canonical(scoped(socket.inet_ntop(family, raw[8:24]), number)), port
    return canonical(socket.inet_ntop(socket.AF_INET, raw[4:8])), port
