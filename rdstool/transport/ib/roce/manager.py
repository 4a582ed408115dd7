"""Communication management: the dialogues of a device with its peers over queue pair 1 (chapter 12).

Both roles, any number of connections. Two peers that call each other at once get two connections: what to do with
them is the business of whoever uses them. Whatever a peer sends, the tables stay within the limits below, and at most
one message goes out for each that came in.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from dissectors.wire.cm import Attribute, CmDrep, CmDreq, CmMra, CmRej, CmRep, CmReq, CmRtu, RejectReason
from rdstool.errors import TransportError
from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.source_ports import EPHEMERAL_PORTS
from rdstool.transport.ib.provider import (
    ConnectFailed,
    ConnectionOptions,
    ConnectRequested,
    Disconnected,
    Established,
    Refused,
)
from rdstool.transport.ib.roce import letters
from rdstool.transport.ib.roce.connection import CmInput, CmState, RoceConnection
from rdstool.transport.ib.roce.directory import Directory
from rdstool.transport.ib.roce.letters import (
    ABOUT_REP,
    ABOUT_REQ,
    DREQ_ROOM,
    REJ_ROOM,
    REP_ROOM,
    REQ_ROOM,
    RETRIES,
    RTU_ROOM,
)
from rdstool.transport.ib.roce.mads import ManagementMessage, filled, ip_header, is_ip_service, pack, with_ip_header
from rdstool.transport.ib.roce.numbers import MTU_BYTES, coded_time_s, gid_of
from rdstool.transport.ib.roce.outbox import WAIT_S, Outbox
from rdstool.transport.ib.roce.queue_pairs import QueuePairs

MAX_REQUESTS = 128
"""Requests that wait for ``accept`` or ``reject``; RDS in the kernel listens with the same backlog."""
ANSWER_WITHIN_S = 60.0
"""Time that the owner has to ``accept`` or ``reject``."""
_LEAST_ACK_TIMEOUT, _MOST_ACK_TIMEOUT = 14, 21
"""Limits to what a peer can have us wait: 67 ms and 8.6 s."""


class Manager:
    """Makes and ends the connections of a device."""

    def __init__(self, device: QueuePairs, random: Random) -> None:
        self._device = device
        self._random = random
        self._services: set[int] = set()
        self._directory = Directory(random)
        self._unanswered = 0
        """Requests that wait for the owner."""
        self._outbox = Outbox(device, self._unheard)
        self.next_message = self._outbox.next_message
        """Called by the device."""

    # ---- What the owner does

    def listen(self, service_id: int) -> None:
        """Take requests for a service."""
        if service_id in self._services:
            raise TransportError(f"{self._device.address} listens for service {service_id:#x} already")
        self._services.add(service_id)

    def stop_listening(self, service_id: int) -> None:
        """Take no more of them."""
        self._services.discard(service_id)

    def connect(self, peer: str, service_id: int, private_data: bytes, options: ConnectionOptions) -> RoceConnection:
        """Send REQ."""
        if is_ip_service(service_id):
            filled(private_data, REQ_ROOM - len(with_ip_header(b"", self._device.address, 0, peer)))
            first, last = EPHEMERAL_PORTS
            port = self._random.randrange(first, last + 1)
            private_data = with_ip_header(private_data, self._device.address, port, peer)
        filled(private_data, REQ_ROOM)
        connection = self._new(peer, options)
        connection.service_id = service_id
        connection.transaction = self._random.getrandbits(64)
        body = letters.request(connection, self._device.address, self._random.getrandbits(20), private_data)
        connection.move(CmInput.CONNECT)
        self._outbox.say(connection, Attribute.REQ, body, repeat=True)
        return connection

    def accept(self, connection: RoceConnection, private_data: bytes, options: ConnectionOptions) -> None:
        """Send REP."""
        data = filled(private_data, REP_ROOM)
        request = self._pending(connection, "accept").body
        resources = min(options.responder_resources, request.initiator_depth)
        timeout = min(max(request.primary_ack_timeout, _LEAST_ACK_TIMEOUT), _MOST_ACK_TIMEOUT)
        connection.options = replace(
            options, responder_resources=resources, ack_timeout=timeout, rnr_retry=request.rnr_retry
        )
        connection.move(CmInput.ACCEPT)
        self._unanswered -= 1
        mtu = MTU_BYTES[request.path_mtu]
        self._receive_from(connection, request.local_qpn, request.starting_psn, mtu, request.responder_resources)
        depth = min(options.initiator_depth, request.responder_resources)
        body = letters.reply(connection, self._device.address, depth, options.rnr_retry, data)
        self._outbox.say(connection, Attribute.REP, body, repeat=True)

    def reject(self, connection: RoceConnection, private_data: bytes) -> None:
        """Send REJ with the reason 28."""
        data = filled(private_data, REJ_ROOM)
        self._pending(connection, "reject")
        self._outbox.refuse(connection, RejectReason.CONSUMER, ABOUT_REQ, data)
        self._end(connection)

    def disconnect(self, connection: RoceConnection, private_data: bytes) -> None:
        """End a connection or an attempt: DREQ, or REJ where it is not established."""
        data = filled(private_data, DREQ_ROOM)
        state = connection.cm_state
        if state in {CmState.TIMEWAIT, CmState.DREQ_SENT}:
            return
        connection.fail()
        if state is CmState.ESTABLISHED:
            connection.move(CmInput.DISCONNECT)
            connection.transaction = self._random.getrandbits(64)
            local, remote = connection.local_id, connection.remote_id
            body = CmDreq(local_comm_id=local, remote_comm_id=remote, remote_qpn=connection.remote_number, private=data)
            self._outbox.say(connection, Attribute.DREQ, body, repeat=True)
            self._device.forget(connection)
        else:
            if state is CmState.REQ_SENT:
                self._outbox.refuse(connection, RejectReason.TIMEOUT, ABOUT_REQ)
            elif state is CmState.REQ_RCVD:
                self._outbox.refuse(connection, RejectReason.CONSUMER, ABOUT_REQ)
            elif state is CmState.REP_SENT:
                self._outbox.refuse(connection, RejectReason.CONSUMER, ABOUT_REP)
            self._end(connection)
        self._device.events.append(Disconnected(connection, False, b""))

    def _pending(self, connection: RoceConnection, what: str) -> ManagementMessage:
        if connection.cm_state is not CmState.REQ_RCVD or connection.request is None:
            state = connection.cm_state.name
            raise LocalProtocolError(f"{what}: the peer does not wait for an answer, the connection is {state}")
        return connection.request

    # ---- What peers say

    def heard(self, peer: str, message: ManagementMessage, now: float) -> bool:
        """A message has come; False where it makes no sense."""
        if message.attribute is Attribute.REQ:
            return self._request(peer, message, now)
        connection = self._directory.ours(peer, message.body.remote_comm_id)
        if message.attribute is Attribute.DREQ:
            return self._disconnect_request(peer, connection, message)
        if message.attribute is Attribute.REP:
            return self._reply(peer, connection, message)
        if message.attribute is Attribute.REJ:
            return self._rejected(peer, connection, message.body)
        return connection is not None and self._continued(connection, message, now)

    def _continued(self, connection: RoceConnection, message: ManagementMessage, now: float) -> bool:
        """MRA, RTU or DREP of a dialogue."""
        body = message.body
        if connection.remote_id not in {0, body.local_comm_id}:
            return False
        if message.attribute is Attribute.MRA:
            return self._wait_longer(connection, body, now)
        if message.attribute is Attribute.RTU:
            return self._ready(connection, body.private)
        if connection.cm_state is not CmState.DREQ_SENT:
            return False
        self._end(connection)
        return True

    def _request(self, peer: str, message: ManagementMessage, now: float) -> bool:
        body = message.body
        known = self._directory.theirs(peer, body.local_comm_id)
        if known is not None:
            return self._request_again(known)
        if self._directory.has_ended(peer, body.local_comm_id, now):
            return False
        reason = self._objection(peer, body)
        if reason is not None:
            self._outbox.turn_away(peer, message, reason)
            return True
        stale = self._directory.with_queue_pair(peer, body.local_qpn)
        if stale is not None and stale.cm_state is CmState.DREQ_SENT:
            self._end(stale)  # the peer has ended it, too, and is done with it
        elif stale is not None:
            # The peer uses a queue pair anew that it has here already: it has forgotten the connection of before.
            self._outbox.turn_away(peer, message, RejectReason.STALE_CONNECTION)
            self._gone(stale, b"")
            return True
        connection = self._new(peer, ConnectionOptions())
        connection.service_id = body.service_id
        self._directory.learn_id(connection, body.local_comm_id)
        connection.transaction, connection.request = message.transaction, message
        connection.move(CmInput.REQUEST)
        self._unanswered += 1
        connection.answer_timer = self._device.timers.at(
            now + ANSWER_WITHIN_S, lambda _: self._not_answered_here(connection)
        )
        source_port, data = 0, body.private
        if is_ip_service(body.service_id):
            ip, data = ip_header(data)
            source_port = ip.sport
        self._device.events.append(ConnectRequested(connection, body.service_id, data, source_port))
        return True

    def _objection(self, peer: str, body: CmReq) -> RejectReason | None:
        """Why a request is refused without asking the owner."""
        if body.service_id not in self._services:
            return RejectReason.INVALID_SERVICE_ID
        if body.transport_service:
            return RejectReason.INVALID_TRANSPORT_SERVICE_TYPE
        if body.path_mtu not in MTU_BYTES:
            return RejectReason.INVALID_MTU
        if body.primary_local_gid != gid_of(peer) or body.primary_remote_gid != gid_of(self._device.address):
            # Packets would go to another address than the one that asks.
            return RejectReason.INVALID_GID
        if self._unanswered >= MAX_REQUESTS or self._directory.full:
            return RejectReason.NO_RESOURCES
        return None

    def _request_again(self, connection: RoceConnection) -> bool:
        """The peer has not seen what we answered."""
        if connection.cm_state is CmState.REQ_RCVD:
            self._outbox.say(connection, Attribute.MRA, letters.patience(connection))
        elif connection.cm_state is CmState.REP_SENT:
            self._outbox.say_again(connection)
        return True

    def _reply(self, peer: str, connection: RoceConnection | None, message: ManagementMessage) -> bool:
        body: CmRep = message.body
        if connection is not None and connection.cm_state is CmState.ESTABLISHED:
            if connection.remote_id == body.local_comm_id:
                self._outbox.say_again(connection)  # RTU was lost
            return True
        if connection is None or connection.cm_state is not CmState.REQ_SENT:
            unknown = CmRej(body.remote_comm_id, body.local_comm_id, message=ABOUT_REP)
            unknown.reason = RejectReason.INVALID_COMMUNICATION_ID
            self._outbox.answer(peer, message, Attribute.REJ, unknown)
            return True
        self._directory.learn_id(connection, body.local_comm_id)
        options = connection.options
        connection.options = replace(options, rnr_retry=body.rnr_retry)
        self._receive_from(connection, body.local_qpn, body.starting_psn, options.path_mtu, body.responder_resources)
        rtu = CmRtu(local_comm_id=connection.local_id, remote_comm_id=connection.remote_id)
        self._outbox.say(connection, Attribute.RTU, rtu)
        connection.repeated = pack(ManagementMessage(Attribute.RTU, connection.transaction, rtu))
        self._ready(connection, body.private)
        return True

    def _ready(self, connection: RoceConnection, private_data: bytes) -> bool:
        """The last message that was needed has come."""
        if connection.cm_state not in {CmState.REQ_SENT, CmState.REP_SENT}:
            return connection.cm_state is CmState.ESTABLISHED
        if connection.cm_state is CmState.REQ_SENT and not connection.remote_id:
            return False
        if connection.cm_state is CmState.REP_SENT:
            connection.repeated = None  # it is answered; what repeats from now on is the RTU of the active side
        connection.move(CmInput.READY)
        self._outbox.answered(connection)
        self._device.events.append(Established(connection, private_data))
        connection.send()
        return True

    def heard_packet(self, connection: RoceConnection) -> None:
        """A packet for a queue pair that can receive has come: as good as RTU."""
        if connection.cm_state is CmState.REP_SENT:
            self._ready(connection, bytes(RTU_ROOM))

    def _wait_longer(self, connection: RoceConnection, body: CmMra, now: float) -> bool:
        if connection.cm_state not in {CmState.REQ_SENT, CmState.REP_SENT}:
            return False
        self._outbox.wait(connection, now, min(coded_time_s(body.service_timeout), ANSWER_WITHIN_S) + WAIT_S)
        return True

    def _rejected(self, peer: str, connection: RoceConnection | None, body: CmRej) -> bool:
        if connection is None and not body.remote_comm_id:
            connection = self._directory.theirs(peer, body.local_comm_id)
        if connection is None or connection.cm_state is CmState.TIMEWAIT:
            return False
        if connection.remote_id and body.local_comm_id not in {0, connection.remote_id}:
            return False
        state = connection.cm_state
        if state is CmState.DREQ_SENT:
            self._end(connection)
            return True
        connection.fail()
        self._end(connection)
        event: Refused | Disconnected = Refused(connection, body.reason, body.private)
        if state is CmState.ESTABLISHED:
            event = Disconnected(connection, True, body.private)
        self._device.events.append(event)
        return True

    def _disconnect_request(self, peer: str, connection: RoceConnection | None, message: ManagementMessage) -> bool:
        """Confirm the end, even of what is not known: it may have been forgotten already (as cm.c does)."""
        body: CmDreq = message.body
        if connection is not None and connection.remote_id not in {0, body.local_comm_id}:
            return False
        if connection is not None and body.remote_qpn != connection.number:
            return False
        answer = CmDrep(local_comm_id=body.remote_comm_id, remote_comm_id=body.local_comm_id)
        self._outbox.answer(peer, message, Attribute.DREP, answer)
        if connection is not None and connection.cm_state in {CmState.ESTABLISHED, CmState.REP_SENT}:
            self._gone(connection, body.private)
        elif connection is not None and connection.cm_state is CmState.DREQ_SENT:
            self._end(connection)
        return True

    def _gone(self, connection: RoceConnection, private_data: bytes) -> None:
        """The peer has ended it."""
        connection.fail()
        self._end(connection)
        self._device.events.append(Disconnected(connection, True, private_data))

    # ---- Time

    def _unheard(self, connection: RoceConnection) -> None:
        """No answer in time."""
        if connection.repeats_left and connection.repeated is not None:
            connection.repeats_left -= 1
            self._outbox.say_again(connection, wait=True)
            return
        state = connection.cm_state
        if state is CmState.DREQ_SENT:
            self._end(connection)
            return
        self._outbox.refuse(connection, RejectReason.TIMEOUT, ABOUT_REQ if state is CmState.REQ_SENT else ABOUT_REP)
        connection.fail()
        self._end(connection)
        what = "REQ" if state is CmState.REQ_SENT else "REP"
        detail = f"{connection.peer} did not answer {what}, which was sent {RETRIES + 1} times"
        self._device.events.append(ConnectFailed(connection, detail))

    def _not_answered_here(self, connection: RoceConnection) -> None:
        """The owner let a request lie."""
        self._outbox.refuse(connection, RejectReason.TIMEOUT, ABOUT_REQ)
        connection.fail()
        self._end(connection)
        detail = f"the request of {connection.peer} was not accepted within {ANSWER_WITHIN_S:.0f} s"
        self._device.events.append(ConnectFailed(connection, detail))

    # ---- Tables

    def _new(self, peer: str, options: ConnectionOptions) -> RoceConnection:
        if self._directory.full:
            raise TransportError(f"{len(self._directory)} connections are open: disconnect some first")
        connection = self._device.make(peer, options)
        self._directory.add(connection)
        return connection

    def _receive_from(self, connection: RoceConnection, number: int, psn: int, mtu: int, depth: int) -> None:
        self._directory.learn_queue_pair(connection, number)
        connection.receive_from(self._device.flow_of(connection), number, psn, mtu, depth, connection.options)

    def _end(self, connection: RoceConnection) -> None:
        """Forget a connection, of which nothing is to be heard any more."""
        if connection.cm_state is CmState.REQ_RCVD:
            self._unanswered -= 1
        self._outbox.answered(connection)
        connection.fail()
        connection.move(CmInput.END)
        connection.repeated = connection.request = None
        self._directory.remove(connection, self._device.now)
        self._device.forget(connection)
