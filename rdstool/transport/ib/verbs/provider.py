"""The provider: devices of this machine, with pyverbs and librdmacm."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pyverbs.cm_enums as ce
from pyverbs.cmid import CMID, AddrInfo, CMEventChannel
from pyverbs.pyverbs_error import PyverbsRDMAError

from dissectors.wire.cm import SERVICE_ID_TCP
from rdstool.errors import TransportError
from rdstool.protocol.addresses import canonical, is_host
from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.ib.memory import Access, Region
from rdstool.transport.ib.checks import reachable
from rdstool.transport.ib.provider import (
    ATOMIC_BYTES,
    PATH_MTUS,
    Broken,
    Completed,
    ConnectFailed,
    ConnectionOptions,
    ConnectRequested,
    Disconnected,
    Established,
    Event,
    Operation,
    Refused,
    Status,
    Tap,
)
from rdstool.transport.ib.verbs import presence, rdmacm
from rdstool.transport.ib.verbs.completions import Completions
from rdstool.transport.ib.verbs.connection import State, VerbsConnection
from rdstool.transport.ib.verbs.memory import Pool, VerbsRegion, make_region
from rdstool.transport.ib.verbs.pair import RECEIVE_DEPTH, SEND_DEPTH, Pair, Request
from rdstool.transport.ib.verbs.rdmacm import CmEvent, ConnectionId, EventType

COMPLETIONS = SEND_DEPTH + RECEIVE_DEPTH
"""Completions of one connection that can wait to be taken."""
LAST_WORDS_S = 2.0
"""Time for a device to finish requests of a connection that the peer has ended. Soft-RoCE was seen to tell of the end
before it told of the NAK that had come earlier."""
_PORT_MASK = 0xFFFF
_STATUSES = {int(each): each for each in Status}
_CHANGED: dict[int, str] = {
    EventType.DEVICE_REMOVAL: "the device is gone",
    EventType.ADDR_CHANGE: "its address has moved",
}


class VerbsProvider:
    """The device that has a local address; implements ``provider.Provider``.

    ``ConnectionOptions.path_mtu`` and ``service_level`` are for RDMA-CM to decide, which asks the device and the
    subnet's manager. ``Completed.solicited`` is always False: no device tells.
    """

    def __init__(self, address: str) -> None:
        """Raises ``TransportError`` where no device has the address."""
        self.address = canonical(address)
        if not is_host(self.address):
            raise TransportError(f"{self.address} is no address of a device")
        self._events: list[Event] = []
        self._numbers: dict[int, VerbsConnection] = {}
        self._last_number = 0
        self._connections: dict[int, VerbsConnection] = {}
        """Connections by the key of their identifier."""
        self._leaving: dict[int, ConnectionId] = {}
        """Identifiers whose connection has ended, and whose peer has not said so yet."""
        self._listeners: dict[int, ConnectionId] = {}
        """Listeners by service ID."""
        self._closing: dict[VerbsConnection, tuple[float, bytes]] = {}
        """Connections that the peer has ended: until when requests may still be done, and its private data."""
        self._now = 0.0
        self._regions: set[VerbsRegion] = set()
        self._stirred: dict[VerbsConnection, None] = {}
        self._closed = False
        self._bind()

    def _bind(self) -> None:
        """Find the device, and take what all connections share of it."""
        self._anchor_channel = CMEventChannel()
        self._anchor = CMID(creator=self._anchor_channel)
        try:
            numeric = int(ce.RAI_PASSIVE | ce.RAI_NUMERICHOST)
            where = AddrInfo(src=self.address, port_space=int(ce.RDMA_PS_TCP), flags=numeric)
            self._anchor.bind_addr(where)
        except PyverbsRDMAError as problem:
            self._anchor.close()
            known = ", ".join(presence.devices())
            raise TransportError(
                f"no RDMA device has {self.address} ({os.strerror(problem.error_code)}; there is {known}): "
                f"give an address of one, or {presence.MAKE_DEVICE}"
            ) from None
        self.device = str(self._anchor.dev_name)
        found = self._anchor.context.query_device()
        self.most_reads = min(int(found.max_qp_rd_atom), int(found.max_qp_init_rd_atom), 0xFF)
        """RDMA READs and atomics that may be under way on a connection."""
        self.pool = Pool(self._anchor.pd)
        self._channel = rdmacm.EventChannel()
        self._place = self._channel.make()
        self._place.bind(self.address)
        self._completions = Completions(self._anchor.context, COMPLETIONS)

    # ---- For the owner

    def listen(self, service_id: int) -> None:
        """Take connection requests for a service."""
        listener = self._channel.make()
        try:
            listener.bind(self.address, _port_of(service_id))
            listener.listen()
        except TransportError as problem:
            listener.close()
            raise TransportError(
                f"service {service_id:#x} of {self.address} cannot be had ({problem}): the kernel's RDS has it for all "
                "addresses while rds_rdma is loaded"
            ) from None
        self._listeners[service_id] = listener

    def stop_listening(self, service_id: int) -> None:
        """Take no more of them."""
        listener = self._listeners.pop(service_id, None)
        if listener is not None:
            listener.close()

    def connect(
        self, peer: str, service_id: int, private_data: bytes = b"", options: ConnectionOptions | None = None
    ) -> VerbsConnection:
        """Ask a peer for a connection."""
        peer = reachable(peer, self.address)
        rdmacm.check_room(private_data, rdmacm.REQUEST_ROOM)
        identifier = self._channel.make()
        try:
            options = options or ConnectionOptions()
            identifier.set_service(options.traffic_class, options.ack_timeout)
            identifier.resolve(self.address, peer, _port_of(service_id))
            connection = self._make(identifier, peer, options)
        except TransportError:
            identifier.close()
            raise
        connection.request_data = private_data
        return connection

    def path_mtu(self, peer: str) -> int:
        """The path MTU of the device's port: RDMA-CM asks for no larger one."""
        reachable(peer, self.address)
        code = int(self._anchor.context.query_port(self._anchor.port_num).active_mtu)
        return PATH_MTUS[min(max(code, 1), len(PATH_MTUS)) - 1]

    def register(self, memory: bytearray | memoryview, access: Access) -> VerbsRegion:
        """Make memory known."""
        region = make_region(self._place.domain, memory, access)
        self._regions.add(region)
        return region

    def deregister(self, region: Region) -> None:
        """Take memory away. Once more does no harm."""
        if isinstance(region, VerbsRegion) and region in self._regions:
            self._regions.remove(region)
            rdmacm.deregister(region.registration)

    def set_tap(self, tap: Tap | None) -> None:
        """Raises ``TransportError``: no program sees the packets of a device."""
        if tap is not None:
            raise TransportError(
                "packets of an RDMA device pass by every program: capture them on its network interface, "
                "or use --provider roce to record them"
            )

    def filenos(self) -> Sequence[int]:
        """Events of connections, and of completions."""
        return self._channel.fileno(), self._completions.fileno()

    def next_timer(self) -> float | None:
        """When connections that the peer has ended are over; all other times are kept by the kernel."""
        return min((deadline for deadline, _ in self._closing.values()), default=None)

    def process(self, now: float) -> list[Event]:
        """See what has happened, and give the devices what there is to do."""
        self._now = now
        self._flush()
        while (event := self._channel.next()) is not None:
            self._cm_event(*event)
        self._take_completions()
        self._close_finished()
        self._flush()
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Let go of everything. Connections that are not disconnected end all the same."""
        if self._closed:
            return
        self._closed = True
        for connection in list(self._connections.values()):
            self.forget(connection)
        for region in list(self._regions):
            self.deregister(region)
        for identifier in (*self._leaving.values(), *self._listeners.values(), self._place):
            identifier.close()
        self._completions.close()
        self.pool.close()
        self._channel.close()
        self._anchor.close()
        self._anchor_channel.close()

    def _make(self, identifier: ConnectionId, peer: str, options: ConnectionOptions) -> VerbsConnection:
        """A connection with a queue pair, and room for its completions."""
        self._completions.make_room((len(self._connections) + 1) * COMPLETIONS)
        pair = Pair(self._anchor.pd, self._completions.queue, self._anchor.port_num)
        connection = self._connections[identifier.key] = VerbsConnection(self, identifier, pair, peer, options)
        return connection

    # ---- Connections

    def _cm_event(self, event: CmEvent, identifier: ConnectionId) -> None:
        if event.type is EventType.CONNECT_REQUEST:
            self._requested(event, identifier)
            return
        leaving = self._leaving.pop(event.key, None)
        if leaving is not None:
            leaving.close()
            return
        connection = self._connections.get(event.key)
        if connection is None:
            return
        try:
            self._move(connection, event)
        except TransportError as problem:
            self._fail(connection, str(problem))

    def _move(self, connection: VerbsConnection, event: CmEvent) -> None:
        identifier = connection.identifier
        match event.type:
            case EventType.ADDR_RESOLVED:
                identifier.resolve_route()
            case EventType.ROUTE_RESOLVED:
                identifier.connect(connection.parameters(connection.request_data, connection.options))
                connection.state = State.ASKING
            case EventType.CONNECT_RESPONSE:
                connection.pair.connect(identifier, connection.options.min_rnr_timer)
                identifier.establish()
                self._established(connection, event.private_data)
            case EventType.ESTABLISHED if connection.state is State.ANSWERED:
                self._established(connection, event.private_data)
            case EventType.REJECTED:
                self.forget(connection)
                self._events.append(Refused(connection, event.status, event.private_data))
            case EventType.ADDR_ERROR | EventType.ROUTE_ERROR | EventType.CONNECT_ERROR | EventType.UNREACHABLE:
                detail = os.strerror(-event.status) if event.status < 0 else f"status {event.status}"
                self._fail(connection, detail)
            case EventType.DISCONNECTED:
                identifier.disconnect()
                self._closing[connection] = self._now + LAST_WORDS_S, event.private_data
            case EventType.DEVICE_REMOVAL | EventType.ADDR_CHANGE:
                self._break(connection, _CHANGED[event.type])

    def _close_finished(self) -> None:
        """End what the peer has ended, as soon as the device is done with it: why a request failed may still come."""
        for connection, (deadline, private_data) in list(self._closing.items()):
            if connection.state is State.ESTABLISHED and connection.waiting and self._now < deadline:
                continue
            del self._closing[connection]
            if connection.state is not State.ENDED:
                self.forget(connection)
                self._events.append(Disconnected(connection, True, private_data))

    def _requested(self, event: CmEvent, identifier: ConnectionId) -> None:
        service_id = next((each for each, one in self._listeners.items() if one.key == event.listener), None)
        peer, port = identifier.peer
        try:
            if service_id is None:
                raise TransportError("nobody listens any more")
            connection = self._make(identifier, peer, ConnectionOptions())
        except TransportError:
            with suppress(TransportError):  # the peer may have given up meanwhile
                identifier.reject(b"")
            identifier.close()
            return
        connection.state = State.ASKED
        connection.most_resources, connection.most_depth = event.responder_resources, event.initiator_depth
        self._events.append(ConnectRequested(connection, service_id, event.private_data, port))

    def _established(self, connection: VerbsConnection, private_data: bytes) -> None:
        connection.state = State.ESTABLISHED
        self._stirred[connection] = None
        self._events.append(Established(connection, private_data.ljust(rdmacm.ANSWER_ROOM, b"\0")))

    def _fail(self, connection: VerbsConnection, detail: str) -> None:
        """An attempt, or what should have become of it, came to nothing."""
        established = connection.state is State.ESTABLISHED
        if established:
            self._break(connection, detail)
        else:
            self.forget(connection)
            self._events.append(ConnectFailed(connection, detail))

    def _break(self, connection: VerbsConnection, detail: str) -> None:
        """The queue pair failed. The identifier stays, for ``disconnect``."""
        if connection.state is not State.ENDED:
            self._end(connection)
            self._events.append(Broken(connection, detail))

    def _end(self, connection: VerbsConnection) -> None:
        """Its queue pair goes, and everything that is posted is flushed."""
        connection.state = State.ENDED
        self._stirred.pop(connection, None)
        connection.pair.close()
        for request in connection.left():
            self.completed(connection, request, Status.FLUSHED)

    def forget(self, connection: VerbsConnection) -> None:
        """End it without a word more to the peer than RDMA-CM says by itself."""
        if connection.state is not State.ENDED:
            self._end(connection)
        if self._connections.pop(connection.identifier.key, None) is not None:
            connection.identifier.close()

    def disconnect(self, connection: VerbsConnection) -> None:
        """End a connection or an attempt."""
        key = connection.identifier.key
        if self._connections.get(key) is not connection:
            return
        self._take_completions()
        told = connection.state in {State.ESTABLISHED, State.ENDED} and connection.identifier.disconnect()
        if connection.state is not State.ENDED:
            self._end(connection)
        if told:
            self._leaving[key] = self._connections.pop(key).identifier
        else:
            self.forget(connection)
        self._events.append(Disconnected(connection, False, b""))

    # ---- Work

    def stir(self, connection: VerbsConnection) -> None:
        """Take note that a connection has something for the device."""
        self._stirred[connection] = None

    def number(self, connection: VerbsConnection) -> int:
        """A number for a request, by which its completion is known."""
        self._last_number = number = self._last_number + 1
        self._numbers[number] = connection
        return number

    def drop_number(self, number: int) -> None:
        """Its completion does not count any more."""
        self._numbers.pop(number, None)

    def completed(
        self, connection: VerbsConnection, request: Request, status: Status, data: bytes = b"", original: int = 0
    ) -> None:
        """A request is done."""
        if request.slot is not None:
            self.pool.give(request.slot)
            request.slot = None
        if request.signaled or status is not Status.SUCCESS:
            self._events.append(Completed(connection, request.wr_id, request.operation, status, data, original))

    def _flush(self) -> None:
        while self._stirred:
            connection = next(iter(self._stirred))
            del self._stirred[connection]
            try:
                connection.flush()
            except TransportError as problem:
                self._break(connection, str(problem))

    def _take_completions(self) -> None:
        for each in self._completions.take():
            self._take(each)

    def _take(self, found: Any) -> None:
        connection = self._numbers.pop(found.wr_id, None)
        request = None if connection is None else connection.done(found.wr_id)
        if connection is None or request is None:
            return
        status = _STATUSES.get(int(found.status), Status.LOCAL_OPERATION_ERROR)
        data, original = b"", 0
        if status is Status.SUCCESS and request.slot is not None:
            if request.operation is Operation.RECEIVE:
                data = request.slot.read(found.byte_len)
                if connection.state is State.ANSWERED:
                    connection.identifier.heard()
                    self._established(connection, b"")
            elif request.operation in {Operation.COMPARE_SWAP, Operation.FETCH_ADD}:
                original = int.from_bytes(request.slot.read(ATOMIC_BYTES), sys.byteorder)
        self.completed(connection, request, status, data, original)
        if status is not Status.SUCCESS:
            self._break(connection, f"a request failed: {request.operation.value}, {status.name}")


def _port_of(service_id: int) -> int:
    """The port of RDMA-CM's TCP port space that a service is."""
    if service_id & ~_PORT_MASK != SERVICE_ID_TCP:
        raise LocalProtocolError(f"service {service_id:#x} is none of RDMA-CM's TCP port space")
    return service_id & _PORT_MASK
