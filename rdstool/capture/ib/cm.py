"""RDMA-CM: which queue pairs were connected, for which service, and between which RDS addresses (protocol.md §7.1)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dissectors.wire.cm import (
    CM_CLASS,
    CM_MESSAGES,
    IP_CM,
    MAD,
    RDS_PRIVATE_V4,
    RDS_PRIVATE_V6,
    SERVICE_ID_TCP,
    Attribute,
    CmDreq,
    CmRej,
    CmRep,
    CmReq,
    IpCm,
    RdsPrivateV4,
    RdsPrivateV6,
)
from dissectors.wire.infiniband import DETH
from dissectors.wire.rds import IB_CM_PORT, TCP_PORT
from rdstool.capture.events import CmMessage
from rdstool.capture.streams import V4_PREFIX

if TYPE_CHECKING:
    from rdstool.capture.events import CmMessageBody

MAX_EXCHANGES = 16384
"""Connection set-ups that are remembered; the oldest is forgotten first."""
RDS_SERVICES = {SERVICE_ID_TCP | IB_CM_PORT: 4, SERVICE_ID_TCP | TCP_PORT: 6}
"""Service ID -> IP version of the connection that it asks for."""
Private = RdsPrivateV4 | RdsPrivateV6


@dataclass(slots=True)
class Exchange:
    """One set-up of a connection, from its REQ on. ``active`` sent the REQ; addresses are those of the packets."""

    active: bytes
    passive: bytes
    comm_id: int
    transaction_id: int
    first_frame: int
    version: int
    """IP version of the RDS addresses; 0: not RDS."""
    qpn: int
    psn: int
    mtu: int
    """Path MTU in bytes; 0: not given."""
    active_address: bytes
    passive_address: bytes
    """RDS addresses, or those of the packets where the REQ does not tell."""
    passive_comm_id: int = 0
    passive_qpn: int = 0
    passive_psn: int = 0
    stream: int = -1
    established: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class CmResult:
    """One CM message. ``event`` is None where it does not belong to RDS."""

    exchange: Exchange | None
    event: CmMessage | None
    accepted: bool = False
    """Whether this is the first REP of the exchange."""
    ends: bool = False
    """Whether this is a DREQ."""
    from_active: bool = True


class ConnectionManager:
    """Follows the exchanges of RDMA-CM by communication IDs."""

    def __init__(self) -> None:
        self._exchanges: OrderedDict[tuple[bytes, bytes, int], Exchange] = OrderedDict()
        self._passive: dict[tuple[bytes, bytes, int], Exchange] = {}

    def message(self, raw: bytes, frame: int, time: int, src: bytes, dst: bytes) -> CmResult | None:
        """Read a datagram to queue pair 1, from behind its BTH; None where it is no CM message."""
        if len(raw) < DETH.size + MAD.size:
            return None
        mad = MAD.unpack_from(raw, DETH.size)
        codec = CM_MESSAGES.get(mad.attribute_id)
        if mad.mgmt_class != CM_CLASS or codec is None:
            return None
        start = DETH.size + MAD.size
        whole = len(raw) - start >= codec.size
        body: CmMessageBody = codec.unpack_from(raw[start:].ljust(codec.size, b"\0"))
        problem = None if whole else f"cut short: {len(raw) - start} of {codec.size} bytes were captured"
        if isinstance(body, CmReq):
            return self._request(body, mad.transaction_id, frame, time, src, dst, problem)
        exchange, from_active = self._find(body, src, dst)
        if exchange is None or not exchange.version:
            accepted = exchange is not None and isinstance(body, CmRep) and self._accept(exchange, body)
            return CmResult(exchange, None, accepted)
        private: Private | None = None
        accepted = False
        if isinstance(body, CmRep):
            accepted = self._accept(exchange, body)
            private, problem = _private(body.private, exchange.version, problem)
        event = CmMessage(
            frame,
            time,
            exchange.stream,
            src,
            dst,
            mad.transaction_id,
            body,
            private=private,
            problem=problem,
            cut=not whole,
        )
        return CmResult(exchange, event, accepted, isinstance(body, CmDreq), from_active)

    def _request(
        self, body: CmReq, transaction_id: int, frame: int, time: int, src: bytes, dst: bytes, problem: str | None
    ) -> CmResult:
        version = RDS_SERVICES.get(body.service_id, 0)
        cut = problem is not None
        ip: IpCm | None = None
        private: Private | None = None
        addresses = src, dst
        if version:
            ip = IP_CM.unpack_from(body.private)
            private, problem = _private(body.private[IP_CM.size :], version, problem)
            if problem is None and ip.ip_version != version:
                problem = f"IP version {ip.ip_version} does not go with the service's {version}"
            if any(ip.saddr) and any(ip.daddr):
                addresses = _address(ip.saddr, version), _address(ip.daddr, version)
            elif private is not None:
                addresses = _address(private.saddr, version), _address(private.daddr, version)
        key = src, dst, body.local_comm_id
        exchange = self._exchanges.get(key)
        if exchange is None or exchange.transaction_id != transaction_id:
            mtu = 128 << body.path_mtu if 1 <= body.path_mtu <= 5 else 0
            qpn, psn = body.local_qpn, body.starting_psn
            exchange = Exchange(src, dst, body.local_comm_id, transaction_id, frame, version, qpn, psn, mtu, *addresses)
            self._remember(key, exchange)
        if not version:
            return CmResult(exchange, None)
        event = CmMessage(frame, time, exchange.stream, src, dst, transaction_id, body, ip, private, problem, cut)
        return CmResult(exchange, event)

    def _remember(self, key: tuple[bytes, bytes, int], exchange: Exchange) -> None:
        self._exchanges.pop(key, None)
        self._exchanges[key] = exchange
        if len(self._exchanges) > MAX_EXCHANGES:
            _, old = self._exchanges.popitem(last=False)
            self._passive.pop((old.passive, old.active, old.passive_comm_id), None)

    def _find(self, body: CmMessageBody, src: bytes, dst: bytes) -> tuple[Exchange | None, bool]:
        """The exchange of a message that is no REQ, and whether its active side sent this."""
        assert not isinstance(body, CmReq)
        found = self._exchanges.get((dst, src, body.remote_comm_id))
        if found is not None and (isinstance(body, CmRep) or found.passive_comm_id in (0, body.local_comm_id)):
            return found, False
        found = self._exchanges.get((src, dst, body.local_comm_id))
        if found is not None and (not body.remote_comm_id or found.passive_comm_id in (0, body.remote_comm_id)):
            return found, True
        found = self._passive.get((src, dst, body.local_comm_id))
        if found is not None:
            return found, False
        if isinstance(body, CmRej) and not body.remote_comm_id:
            return None, False
        found = self._passive.get((dst, src, body.remote_comm_id))
        return found, True

    def _accept(self, exchange: Exchange, body: CmRep) -> bool:
        """Take what a REP tells; False where it only came again."""
        if exchange.established:
            return False
        exchange.established = True
        exchange.passive_comm_id = body.local_comm_id
        exchange.passive_qpn = body.local_qpn
        exchange.passive_psn = body.starting_psn
        self._passive[exchange.passive, exchange.active, body.local_comm_id] = exchange
        return True


def _address(address: bytes, version: int) -> bytes:
    """16 bytes, IPv4-mapped for IPv4."""
    return V4_PREFIX + address[-4:] if version == 4 else address


def _private(data: bytes, version: int, problem: str | None) -> tuple[Private | None, str | None]:
    """RDS private data of a REQ (behind its IP header) or REP."""
    codec = RDS_PRIVATE_V4 if version == 4 else RDS_PRIVATE_V6
    if problem is not None:
        return None, problem
    private: Private = codec.unpack_from(data)
    if not any(data[: codec.size]):
        return None, "no RDS private data"
    return private, None


def attribute_of(raw: bytes) -> int:
    """The attribute ID of a management datagram, 0 where there is none."""
    at = DETH.size + MAD.table["attribute_id"].offset
    return int.from_bytes(raw[at : at + 2], "big")


REP = int(Attribute.REP)
