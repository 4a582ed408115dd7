"""Management datagrams of communication management: bytes to message and back (§12.6, §13.4.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

from dissectors.wire.cm import CM_CLASS, CM_MESSAGES, IP_CM, MAD, MAD_BYTES, QKEY_GSI, Attribute, IpCm, Mad
from dissectors.wire.encapsulation import ICRC_BYTES
from dissectors.wire.infiniband import BTH, CM_QP, DETH, Bth, Deth, Opcode
from rdstool.errors import TransportError
from rdstool.protocol.addresses import parsed

HEADER_BYTES = BTH.size + DETH.size
DATAGRAM_BYTES = HEADER_BYTES + MAD_BYTES + ICRC_BYTES
"""Bytes of UDP payload of every management datagram."""
_METHOD_SEND = 3
_CLASS_VERSION = 2
_BASE_VERSION = 1
_IP_SERVICES = 1
"""What service IDs of RDMA-CM's IP services have in front of their last 24 bits, port space and port (Annex A11)."""


class ManagementMessage(NamedTuple):
    """A message of communication management."""

    attribute: Attribute
    transaction: int
    body: Any
    """``CmReq``, ``CmRep`` or another of ``dissectors.wire.cm``."""


def head(psn: int) -> bytes:
    """BTH and DETH of a management datagram."""
    bth = Bth(opcode=Opcode.UD_SEND_ONLY, dqpn=CM_QP, psn=psn)
    return BTH.pack(bth) + DETH.pack(Deth(qkey=QKEY_GSI, sqpn=CM_QP))


def pack(message: ManagementMessage) -> bytes:
    """The 256 bytes of a message."""
    mad = Mad(transaction_id=message.transaction, attribute_id=message.attribute)
    return MAD.pack(mad) + CM_MESSAGES[message.attribute].pack(message.body)


def unpack(datagram: bytes) -> ManagementMessage | None:
    """The message in a datagram of the general services interface; None where it holds none that is known here."""
    if len(datagram) != DATAGRAM_BYTES:
        return None
    deth = DETH.unpack_from(datagram, BTH.size)
    mad = MAD.unpack_from(datagram, HEADER_BYTES)
    right = (mad.base_version, mad.mgmt_class, mad.class_version, mad.method)
    if deth.qkey != QKEY_GSI or deth.sqpn != CM_QP or mad.attribute_id not in CM_MESSAGES:
        return None
    if right != (_BASE_VERSION, CM_CLASS, _CLASS_VERSION, _METHOD_SEND):
        return None
    body = CM_MESSAGES[mad.attribute_id].unpack_from(datagram, HEADER_BYTES + MAD.size)
    return ManagementMessage(Attribute(mad.attribute_id), mad.transaction_id, body)


def filled(private_data: bytes, size: int) -> bytes:
    """Private data as it stands in a message. ``TransportError`` where it is too long."""
    if len(private_data) > size:
        raise TransportError(f"{len(private_data)} bytes of private data are given, the message has room for {size}")
    return private_data.ljust(size, b"\0")


def is_ip_service(service_id: int) -> bool:
    """A service of RDMA-CM, whose requests begin with the IP CM header."""
    return service_id >> 24 == _IP_SERVICES


def with_ip_header(private_data: bytes, source: str, source_port: int, destination: str) -> bytes:
    """What RDMA-CM puts in front of a request's private data."""
    version = parsed(source).version
    saddr, daddr = (parsed(address).packed.rjust(16, b"\0") for address in (source, destination))
    return IP_CM.pack(IpCm(ip_version=version, sport=source_port, saddr=saddr, daddr=daddr)) + private_data


def ip_header(private_data: bytes) -> tuple[IpCm, bytes]:
    """The IP CM header in front of private data, and what is behind it."""
    return IP_CM.unpack_from(private_data), private_data[IP_CM.size :]
