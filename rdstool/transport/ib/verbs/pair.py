"""A queue pair of a device: its states, and work requests in batches."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyverbs.enums as e
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.pyverbs_error import PyverbsError
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

from rdstool.errors import TransportError
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Operation, Segment
from rdstool.transport.ib.verbs.memory import Slot
from rdstool.transport.ib.verbs.rdmacm import ConnectionId

SEND_DEPTH = 256
"""Work requests that a queue pair is given at a time, as RDS has it; further ones wait here (protocol.md §7.4)."""
RECEIVE_DEPTH = 1_024
"""Receives that a queue pair is given at a time; further ones wait here."""

EVERYTHING = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
"""What a queue pair lets peers do: it is the regions that decide."""
INIT, RTR, RTS = int(e.IBV_QPS_INIT), int(e.IBV_QPS_RTR), int(e.IBV_QPS_RTS)

_OPCODES = {
    Operation.SEND: e.IBV_WR_SEND,
    Operation.WRITE: e.IBV_WR_RDMA_WRITE,
    Operation.READ: e.IBV_WR_RDMA_READ,
    Operation.COMPARE_SWAP: e.IBV_WR_ATOMIC_CMP_AND_SWP,
    Operation.FETCH_ADD: e.IBV_WR_ATOMIC_FETCH_AND_ADD,
}
_PLAIN = (
    "path_mtu",
    "path_mig_state",
    "rq_psn",
    "sq_psn",
    "dest_qp_num",
    "qp_access_flags",
    "pkey_index",
    "max_rd_atomic",
    "max_dest_rd_atomic",
    "min_rnr_timer",
    "port_num",
    "timeout",
    "retry_cnt",
    "rnr_retry",
)
"""What librdmacm and pyverbs call the same."""
_INIT_MASK = e.IBV_QP_STATE | e.IBV_QP_PKEY_INDEX | e.IBV_QP_PORT | e.IBV_QP_ACCESS_FLAGS


@dataclass(slots=True)
class Request:
    """A work request, from when it is posted until it is done."""

    wr_id: int
    operation: Operation
    data: Any = None
    """What a SEND or WRITE carries."""
    size: int = 0
    """Bytes that the device needs memory for, beside ``into``."""
    into: Segment | None = None
    """Where a READ puts what it reads."""
    address: int = 0
    rkey: int = 0
    first: int = 0
    """Compared, or added."""
    second: int = 0
    """Put where the comparison holds."""
    flags: int = 0
    slot: Slot | None = None
    signaled: bool = True
    """Its success is told. The device tells all, for then its memory is free."""


class Pair:
    """A queue pair, as far as a connection needs one."""

    def __init__(self, domain: Any, completions: Any, port_number: int) -> None:
        wanted = QPInitAttr(
            qp_type=e.IBV_QPT_RC,
            scq=completions,
            rcq=completions,
            cap=QPCap(SEND_DEPTH, RECEIVE_DEPTH, 1, 1, 0),
            sq_sig_all=1,
        )
        try:
            self._pair = QP(domain, wanted)
            begun = QPAttr(port_num=port_number, qp_state=INIT)
            begun.qp_access_flags = int(EVERYTHING)
            self._pair.modify(begun, _INIT_MASK)
        except PyverbsError as problem:
            raise TransportError(f"the device makes no queue pair: {problem}") from None
        self.number = int(self._pair.qp_num)
        self._place = SGE(0, 0, 0)
        """Used for one work request after the other, which copy it: to make objects of pyverbs takes long."""

    def connect(self, identifier: ConnectionId, min_rnr_timer: int) -> None:
        """Ready to receive, and to send, as the two ends have agreed."""
        for state in (INIT, RTR, RTS):
            given, mask = identifier.attributes(state)
            wanted = QPAttr(qp_state=state)
            for name in _PLAIN:
                setattr(wanted, name, getattr(given, name))
            if mask & e.IBV_QP_AV:
                wanted.ah_attr = _handle(given.ah_attr)
            if mask & e.IBV_QP_ACCESS_FLAGS:
                wanted.qp_access_flags = int(EVERYTHING)
            if mask & e.IBV_QP_MIN_RNR_TIMER:
                wanted.min_rnr_timer = min_rnr_timer
            try:
                self._pair.modify(wanted, mask)
            except PyverbsError as problem:
                raise TransportError(f"the device does not take the queue pair further: {problem}") from None

    def post_receives(self, receives: Sequence[tuple[int, Slot, int]]) -> None:
        """Receives: number, memory and size. Raises ``PyverbsError``."""
        made: list[Any] = []
        for number, slot, size in reversed(receives):
            place = self._at(slot.address, size, slot.lkey)
            made.append(RecvWR(wr_id=number, num_sge=1, sg=[place], next_wr=made[-1] if made else None))
        self._post(self._pair.post_recv, made)

    def post_requests(self, requests: Sequence[tuple[int, Request]]) -> None:
        """Post requests other than receives: number and request. Raises ``PyverbsError``."""
        made: list[Any] = []
        for number, request in reversed(requests):
            into, slot = request.into, request.slot
            if into is None:
                assert slot is not None
                place = self._at(slot.address, request.size, slot.lkey)
            else:
                place = self._at(*into)
            work = SendWR(
                wr_id=number,
                opcode=_OPCODES[request.operation],
                num_sge=1,
                sg=[place],
                send_flags=request.flags,
                next_wr=made[-1] if made else None,
            )
            if request.operation in {Operation.WRITE, Operation.READ}:
                work.set_wr_rdma(request.rkey, request.address)
            elif request.operation is not Operation.SEND:
                work.set_wr_atomic(request.rkey, request.address, request.first, request.second)
            made.append(work)
        self._post(self._pair.post_send, made)

    def _at(self, address: int, length: int, lkey: int) -> SGE:
        place = self._place
        place.addr, place.length, place.lkey = address, length, lkey
        return place

    @staticmethod
    def _post(post: Callable[[Any], None], made: list[Any]) -> None:
        """They were made from the last to the first. pyverbs up to 50 frees them only where it is told to."""
        try:
            post(made[-1])
        finally:
            for each in made:
                each.close()

    def close(self) -> None:
        """End it: the device touches no memory for it any more."""
        self._pair.close()
        self._place.close()


def _handle(given: Any) -> AHAttr:
    """The way to the peer."""
    words = struct.unpack(">8H", bytes(given.grh.dgid))
    route = GlobalRoute(
        dgid=GID(":".join(f"{word:04x}" for word in words)),
        flow_label=given.grh.flow_label,
        sgid_index=given.grh.sgid_index,
        hop_limit=given.grh.hop_limit,
        traffic_class=given.grh.traffic_class,
    )
    return AHAttr(
        dlid=given.dlid,
        sl=given.sl,
        src_path_bits=given.src_path_bits,
        static_rate=given.static_rate,
        is_global=given.is_global,
        port_num=given.port_num,
        gr=route,
    )
