"""Communication management: dialogues of both roles, what is repeated, who is refused and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dissectors.wire.cm import Attribute, CmRej, RejectReason
from rdstool.errors import TransportError
from rdstool.protocol.errors import LocalProtocolError
from rdstool.transport.ib.provider import (
    Completed,
    ConnectFailed,
    ConnectionOptions,
    ConnectRequested,
    Disconnected,
    Established,
    Refused,
)
from rdstool.transport.ib.roce import mads, manager
from rdstool.transport.ib.roce.connection import TRANSITIONS, CmInput, CmState, RoceConnection
from rdstool.transport.ib.roce.flow import Flow
from rdstool.transport.ib.roce.numbers import gid_of
from tests.unit.transport.ib.driving import (
    ACTIVE,
    PASSIVE,
    SERVICE,
    Pair,
    asked,
    lose_messages,
    message,
    names,
    of_kind,
    one,
    request,
    sent,
    tell,
)

PLAIN_SERVICE = 0x1234_5678_9ABC_DEF0


# ---- Making a connection


def test_three_messages_make_a_connection(pair: Pair) -> None:
    active, passive = asked(pair, b"private")
    passive.accept(b"answer")
    pair.settle()
    assert names(pair) == ["REQ", "REP", "RTU"]
    assert one(pair.active, Established).private_data == b"answer".ljust(196, b"\0")
    assert one(pair.passive, Established).private_data == bytes(224)
    assert (active.cm_state, passive.cm_state) == (CmState.ESTABLISHED, CmState.ESTABLISHED)


def test_the_request_says_who_asks_for_what(pair: Pair) -> None:
    pair.active.connect(PASSIVE, SERVICE, b"private")
    (outgoing,) = sent(pair.active, 0.0)
    body = message(outgoing).body
    assert body.primary_local_gid == gid_of(ACTIVE)
    assert body.service_id == SERVICE
    ip, rest = mads.ip_header(body.private)
    assert (ip.ip_version, ip.saddr[12:], ip.daddr[12:]) == (4, gid_of(ACTIVE)[12:], gid_of(PASSIVE)[12:])
    assert rest == b"private".ljust(56, b"\0")


def test_the_owner_of_a_service_sees_the_private_data_without_the_ip_header(pair: Pair) -> None:
    pair.active.connect(PASSIVE, SERVICE, b"private")
    pair.settle()
    event = one(pair.passive, ConnectRequested)
    assert (event.service_id, event.private_data) == (SERVICE, b"private".ljust(56, b"\0"))
    assert event.source_port >= 32_768
    assert event.connection.peer == ACTIVE


def test_a_service_that_is_not_of_rdma_cm_has_no_ip_header(pair: Pair) -> None:
    pair.passive.listen(PLAIN_SERVICE)
    pair.active.connect(PASSIVE, PLAIN_SERVICE, b"x" * 92)
    pair.settle()
    event = one(pair.passive, ConnectRequested)
    assert (event.private_data, event.source_port) == (b"x" * 92, 0)


def test_a_connection_over_ipv6_carries_messages() -> None:
    pair = Pair("2001:db8::1", "2001:db8::2")
    active, passive = pair.connect()
    passive.post_receive(0, 10)
    active.post_send(1, b"six")
    pair.settle()
    assert [done.data for done in of_kind(pair.passive.take_events(), Completed)] == [b"six"]


@pytest.mark.parametrize("lost", ["REQ", "REP", "RTU"])
def test_a_lost_message_is_made_good(pair: Pair, lost: str) -> None:
    active = pair.active.connect(PASSIVE, SERVICE)
    if lost == "REQ":
        pair.filter = lose_messages(lost)
    pair.settle()
    if lost == "REQ":
        pair.filter = Pair().filter
        pair.wait(2.0)
    passive = one(pair.passive, ConnectRequested).connection
    pair.filter = lose_messages(lost)
    passive.accept()
    pair.settle()
    pair.filter = Pair().filter
    pair.wait(3.0)
    assert isinstance(passive, RoceConnection)
    assert (active.cm_state, passive.cm_state) == (CmState.ESTABLISHED, CmState.ESTABLISHED)
    assert len(of_kind(pair.active.take_events(), Established)) == 1
    assert len(of_kind(pair.passive.take_events(), Established)) == 1


def test_a_packet_does_as_well_as_rtu(pair: Pair) -> None:
    active, passive = asked(pair)
    passive.post_receive(0, 10)
    pair.filter = lose_messages("RTU")
    passive.accept()
    pair.settle()
    active.post_send(1, b"first")
    pair.settle()
    established, completed = pair.passive.take_events()
    assert isinstance(established, Established)
    assert isinstance(completed, Completed)
    assert completed.data == b"first"


def test_a_slow_owner_makes_the_peer_wait(pair: Pair) -> None:
    active, passive = asked(pair)
    pair.wait(20.0)
    assert names(pair)[:3] == ["REQ", "REQ", "MRA"]
    passive.accept()
    pair.settle()
    assert active.cm_state is CmState.ESTABLISHED


def test_an_owner_that_never_answers_refuses(pair: Pair) -> None:
    asked(pair)
    pair.wait(manager.ANSWER_WITHIN_S + 1)
    assert one(pair.active, Refused).reason == RejectReason.TIMEOUT
    assert one(pair.passive, ConnectFailed)


def test_a_peer_that_does_not_answer_is_given_up(pair: Pair) -> None:
    pair.active.connect(PASSIVE, SERVICE)
    pair.filter = lose_messages("REQ")
    pair.wait(20.0)
    assert names(pair) == ["REQ"] * 16 + ["REJ"]
    assert PASSIVE in one(pair.active, ConnectFailed).detail
    assert pair.active.next_timer() is None


def test_a_peer_that_never_confirms_is_given_up(pair: Pair) -> None:
    _, passive = asked(pair)
    pair.filter = lose_messages("REP")
    passive.accept()
    pair.wait(30.0)
    assert "REP" in one(pair.passive, ConnectFailed).detail
    assert passive.cm_state is CmState.TIMEWAIT


def test_the_answerer_refuses_with_data(pair: Pair) -> None:
    active, passive = asked(pair)
    passive.reject(b"\1\0\0\0")
    pair.settle()
    refused = one(pair.active, Refused)
    assert (refused.reason, refused.private_data[:4]) == (RejectReason.CONSUMER, b"\1\0\0\0")
    assert (active.cm_state, passive.cm_state) == (CmState.TIMEWAIT, CmState.TIMEWAIT)
    assert pair.passive.take_events() == []


def test_crossing_requests_make_two_connections(pair: Pair) -> None:
    pair.active.listen(SERVICE)
    pair.active.connect(PASSIVE, SERVICE)
    pair.passive.connect(ACTIVE, SERVICE)
    pair.settle()
    for device in (pair.active, pair.passive):
        one(device, ConnectRequested).connection.accept()
    pair.settle()
    for device in (pair.active, pair.passive):
        assert len(of_kind(device.take_events(), Established)) == 2


def test_several_connections_between_two_devices(pair: Pair) -> None:
    ends = [pair.connect() for _ in range(5)]
    for number, (active, passive) in enumerate(ends):
        passive.post_receive(0, 10)
        active.post_send(1, bytes([number + 1]))
    pair.settle()
    got = {done.connection: done.data for done in of_kind(pair.passive.take_events(), Completed)}
    assert got == {passive: bytes([number + 1]) for number, (_, passive) in enumerate(ends)}


def test_reads_in_flight_are_what_both_ends_allow(pair: Pair) -> None:
    active, passive = asked(pair, responder_resources=4, initiator_depth=9)
    passive.accept(options=ConnectionOptions(responder_resources=7, initiator_depth=2))
    pair.settle()
    assert (active.requester._depth, passive.requester._depth) == (7, 2)
    assert (active.responder._resources, passive.responder._resources) == (4, 7)


def test_a_peer_cannot_have_us_repeat_without_pause(pair: Pair) -> None:
    _, passive = asked(pair, ack_timeout=1)
    passive.accept()
    assert passive.requester._timeout_s > 0.05


# ---- Refusing what cannot be


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"service_id": SERVICE + 1}, RejectReason.INVALID_SERVICE_ID),
        ({"transport_service": 1}, RejectReason.INVALID_TRANSPORT_SERVICE_TYPE),
        ({"path_mtu": 0}, RejectReason.INVALID_MTU),
        ({"path_mtu": 6}, RejectReason.INVALID_MTU),
        ({"primary_local_gid": gid_of("192.0.2.9")}, RejectReason.INVALID_GID),
        ({"primary_remote_gid": bytes(16)}, RejectReason.INVALID_GID),
    ],
)
def test_a_request_that_cannot_be_is_refused_without_asking(
    pair: Pair, fields: dict[str, Any], reason: RejectReason
) -> None:
    (answer,) = tell(pair.passive, Attribute.REQ, request(**fields))
    assert isinstance(answer, CmRej)
    assert (answer.reason, answer.remote_comm_id) == (reason, 0x100)
    assert pair.passive.take_events() == []
    assert pair.passive.counters.requests_refused == 1


def test_requests_without_an_answer_are_bounded(pair: Pair) -> None:
    answers = []
    for number in range(manager.MAX_REQUESTS + 10):
        answers += tell(pair.passive, Attribute.REQ, request(local_comm_id=number + 1, local_qpn=number + 2))
    assert [answer.reason for answer in answers] == [RejectReason.NO_RESOURCES] * 10
    assert len(pair.passive.take_events()) == manager.MAX_REQUESTS


def test_a_peer_that_uses_its_queue_pair_anew_has_forgotten_the_old_connection(pair: Pair) -> None:
    active, passive = pair.connect()
    (answer,) = tell(pair.passive, Attribute.REQ, request(local_qpn=active.number))
    assert answer.reason == RejectReason.STALE_CONNECTION
    assert one(pair.passive, Disconnected) == Disconnected(passive, True, b"")


def test_a_peer_that_is_done_with_a_queue_pair_may_use_it_anew(pair: Pair) -> None:
    active, passive = pair.connect()
    pair.filter = lambda *_: []
    passive.disconnect()
    pair.settle()
    pair.passive.take_events()
    assert tell(pair.passive, Attribute.REQ, request(local_qpn=active.number)) == []
    assert one(pair.passive, ConnectRequested).connection is not passive


def test_a_late_request_of_an_ended_connection_begins_nothing(pair: Pair) -> None:
    active, passive = asked(pair)
    repeated = active.repeated
    assert repeated is not None
    passive.reject()
    pair.settle()
    flow = Flow(ACTIVE, 4791, PASSIVE)
    pair.passive.receive([flow.seal(mads.head(1), repeated, 0)], ACTIVE, 4791, pair.now)
    assert pair.passive.take_events() == []
    assert sent(pair.passive, pair.now) == []


def test_an_answer_to_no_request_is_refused(pair: Pair) -> None:
    active, passive = asked(pair)
    passive.accept()
    reply = message(sent(pair.passive, 0.0)[0]).body
    reply.remote_comm_id ^= 1
    (answer,) = tell(pair.active, Attribute.REP, reply, PASSIVE)
    assert (answer.reason, answer.message) == (RejectReason.INVALID_COMMUNICATION_ID, 1)
    assert active.cm_state is CmState.REQ_SENT


def test_a_stranger_cannot_end_a_connection(pair: Pair) -> None:
    active, passive = pair.connect()
    active.disconnect()
    (outgoing,) = sent(pair.active, 0.0)
    tell(pair.passive, Attribute.DREQ, message(outgoing).body, "192.0.2.66")
    tell(pair.passive, Attribute.DREQ, replace(message(outgoing).body, local_comm_id=77))
    tell(pair.passive, Attribute.DREQ, replace(message(outgoing).body, remote_qpn=77))
    assert pair.passive.take_events() == []
    tell(pair.passive, Attribute.DREQ, message(outgoing).body)
    assert one(pair.passive, Disconnected).connection is passive


# ---- The owner's mistakes


def test_wrong_calls_are_told(pair: Pair) -> None:
    with pytest.raises(TransportError, match="listens for service"):
        pair.passive.listen(SERVICE)
    with pytest.raises(TransportError, match="not an IP address"):
        pair.active.connect("somewhere", SERVICE)
    for peer in ("2001:db8::1", "0.0.0.0", "224.0.0.1"):  # noqa: S104
        with pytest.raises(TransportError, match="no host that"):
            pair.active.connect(peer, SERVICE)
    with pytest.raises(TransportError, match="private data"):
        pair.active.connect(PASSIVE, SERVICE, bytes(57))
    active, passive = asked(pair)
    with pytest.raises(TransportError, match="private data"):
        passive.accept(bytes(197))
    with pytest.raises(LocalProtocolError, match="does not wait"):
        active.accept()
    passive.accept()
    with pytest.raises(LocalProtocolError, match="does not wait"):
        passive.accept()


@pytest.mark.parametrize(
    ("name", "value"),
    [("path_mtu", 1500), ("ack_timeout", 0), ("ack_timeout", 32), ("retry_count", 8), ("initiator_depth", 256)],
)
def test_options_that_cannot_be_are_told(name: str, value: int) -> None:
    with pytest.raises(TransportError, match=f"{name} is {value}: give"):
        ConnectionOptions(**{name: value})


def test_a_service_that_is_listened_for_no_more_is_refused(pair: Pair) -> None:
    pair.passive.stop_listening(SERVICE)
    pair.active.connect(PASSIVE, SERVICE)
    pair.settle()
    assert one(pair.active, Refused).reason == RejectReason.INVALID_SERVICE_ID


@pytest.mark.parametrize("state", list(CmState))
@pytest.mark.parametrize("given", list(CmInput))
def test_a_state_takes_the_inputs_of_its_row_and_refuses_all_others(pair: Pair, state: CmState, given: CmInput) -> None:
    connection = pair.active.queue_pair(PASSIVE)
    connection.cm_state = state
    if (state, given) in TRANSITIONS:
        connection.move(given)
        assert connection.cm_state is TRANSITIONS[state, given]
    else:
        with pytest.raises(LocalProtocolError, match=f"{state.name} cannot take {given.name}"):
            connection.move(given)
