"""Scapy layers for the InfiniBand headers that carry RDS: native InfiniBand, RoCE v1 and RoCE v2.

``scapy.contrib.roce`` has BTH, GRH and AETH for acknowledgements over UDP. The classes of these names here are
subclasses that add the rest: the other extended headers, chained by opcode; pad bytes; the ICRC of every link.
Importing this module puts them in the place of Scapy's for UDP port 4791 and EtherType 0x8915.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from scapy.config import conf
from scapy.contrib import roce
from scapy.contrib.roce import CNPPadding
from scapy.fields import FCSField, XStrField
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw, bind_layers, bind_top_down, split_layers

from dissectors.layers import AnyField, WireLayer, fields_of, patched
from dissectors.wire.encapsulation import ICRC_BYTES, ROCE_ETHERTYPE, ROCE_FIRST_SOURCE_PORT, ROCE_UDP_PORT, NextHeader
from dissectors.wire.errors import CodecError
from dissectors.wire.icrc import icrc
from dissectors.wire.infiniband import (
    CM_QP,
    EXTENDED,
    AckKind,
    Aeth,
    AtomicAckEth,
    AtomicEth,
    Bth,
    Deth,
    Grh,
    Ieth,
    ImmDt,
    Lrh,
    Opcode,
    Reth,
)
from dissectors.wire.table import table_of

LINKTYPE_INFINIBAND = 247
"""Link type of captures that begin with an LRH (tcpdump.org's list of link types)."""
GRH_TRANSPORT = 0x1B
"""``nexthdr`` of a GRH in front of a BTH."""
WORD_BYTES = 4
"""Unit of the packet length in LRH, and what pad bytes fill up to."""
UD = 3
"""Transport in the upper three bits of the opcode: unreliable datagram."""
_CONNECTED = frozenset({0, 1})
"""Transports without a header of their own in front: reliable and unreliable connection."""

PayloadGuess = Callable[["BTH", bytes], type[Packet] | None]
payload_guesses: list[PayloadGuess] = []
"""What may lie behind the transport headers: asked in order, the first class that is not None dissects the payload."""


class LRH(WireLayer):
    """Local Route Header. ``pktlen`` is computed where it is not given."""

    name = "LRH"
    wire = Lrh
    fields_desc = fields_of(Lrh, auto=("pktlen",))

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the packet length."""
        if self.pktlen is None:
            pkt = patched(pkt, Lrh, pktlen=(len(pkt) + len(pay)) // WORD_BYTES)
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """What lies behind the packet's length is the VCRC of the link, where the capture has it."""
        length = self.pktlen * WORD_BYTES - table_of(Lrh).size
        return (s[:length], s[length:]) if 0 < length < len(s) else (s, None)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """Choose the next layer by ``lnh``."""
        if self.lnh == NextHeader.BTH:
            return BTH
        return GRH if self.lnh == NextHeader.GRH else Raw


class GRH(WireLayer, roce.GRH):
    """Global Route Header. ``paylen`` is computed where it is not given."""

    name = "GRH"
    wire = Grh
    fields_desc = fields_of(Grh, auto=("paylen",))

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in the payload length."""
        if self.paylen is None:
            pkt = patched(pkt, Grh, paylen=len(pay))
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """What lies behind the payload is filling of short Ethernet frames, or a checksum of the link."""
        return (s[: self.paylen], s[self.paylen :]) if 0 < self.paylen < len(s) else (s, None)

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """BTH, where the next header says so."""
        return BTH if self.nexthdr == GRH_TRANSPORT else Raw


class _Transport(WireLayer):
    """BTH and what can follow it: the next header is decided by the opcode."""

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """The next extended header of the opcode; behind the last one, what the payload looks like."""
        between = 0
        layer: Packet | None = self
        while layer is not None and not isinstance(layer, BTH):
            between += 1
            layer = layer.underlayer
        if layer is None:
            return Raw
        following = extended_headers(layer.opcode)[between:]
        return following[0] if following else layer.guess_payload(payload)


class _PadField(XStrField):
    """The pad bytes: the last ``padcount`` bytes before the ICRC. The layer itself puts them there when it is built."""

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, bytes]:
        """Take the pad bytes off the end of the payload."""
        at = max(0, len(s) - pkt.padcount)
        return s[:at], s[at:]

    def addfield(self, pkt: Packet, s: bytes, val: bytes | None) -> bytes:
        """Nothing here: see :meth:`BTH.post_build`."""
        return s


class BTH(_Transport, roce.BTH):
    """Base Transport Header, with the pad bytes and the ICRC that end the packet.

    ``padcount``, ``pad`` and ``icrc`` are computed where they are not given; ``pad`` holds the pad bytes seen.
    A packet with no network header below it, or one that has no ICRC rule, gets the ICRC 0.
    """

    name = "BTH"
    wire = Bth
    trailer_bytes = ICRC_BYTES
    fields_desc: ClassVar[list[AnyField]] = [
        *fields_of(Bth, auto=("padcount",)),
        FCSField("icrc", None, fmt="!I"),
        _PadField("pad", b""),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in pad count, pad bytes and ICRC. ``pay`` ends with the ICRC as its field gives it."""
        payload = pay[:-ICRC_BYTES]
        padcount = -len(payload) % WORD_BYTES if self.padcount is None else self.padcount
        if self.padcount is None:
            pkt = patched(pkt, Bth, padcount=padcount)
        body: bytes = pkt + payload + self.pad.ljust(padcount, b"\0")
        trailer = self._icrc(body) if self.icrc is None else pay[-ICRC_BYTES:]
        return body + trailer

    def guess_payload(self, payload: bytes) -> type[Packet]:
        """The class of what lies behind the transport headers."""
        if self.opcode == Opcode.CNP:
            return CNPPadding
        return next((found for guess in payload_guesses if (found := guess(self, payload))), Raw)

    def mysummary(self) -> Any:
        """Operation, queue pair and sequence number, with the addresses of the layer below."""
        try:
            operation = Opcode(self.opcode).name
        except ValueError:
            operation = f"opcode 0x{self.opcode:02x}"
        return f"InfiniBand {operation} to queue pair {self.dqpn:#x} PSN {self.psn}", [UDP]

    def _icrc(self, body: bytes) -> bytes:
        """The ICRC over the headers below and ``body``, which runs from this header to the pad bytes."""
        below = []
        layer = self.underlayer
        while isinstance(layer, UDP | IP | IPv6 | GRH):
            below.append(layer)
            layer = layer.underlayer
        if not below and not isinstance(layer, LRH):
            return bytes(ICRC_BYTES)
        # The headers below are built here with this packet in them, for the lengths that they compute.
        packet: Packet = Raw(body + bytes(ICRC_BYTES))
        for found in below:
            packet = found.clone_with(payload=packet, **found.fields)
        whole = bytes(packet)[:-ICRC_BYTES]
        link = (
            bytes(layer.clone_with(payload=packet, **layer.fields))[: table_of(Lrh).size]
            if isinstance(layer, LRH)
            else None
        )
        try:
            return icrc(whole, lrh=link, bth=len(whole) - len(body))
        except CodecError:
            return bytes(ICRC_BYTES)


class DETH(_Transport):
    """Datagram Extended Transport Header."""

    name = "DETH"
    wire = Deth
    fields_desc = fields_of(Deth)


class RETH(_Transport):
    """RDMA Extended Transport Header."""

    name = "RETH"
    wire = Reth
    fields_desc = fields_of(Reth)

    def mysummary(self) -> Any:
        """Length, key and address."""
        return f"{self.dlen} bytes at {self.va:#x} key {self.rkey:#x}", [BTH]


class AtomicETH(_Transport):
    """Atomic Extended Transport Header."""

    name = "AtomicETH"
    wire = AtomicEth
    fields_desc = fields_of(AtomicEth)


class AETH(_Transport, roce.AETH):
    """ACK Extended Transport Header."""

    name = "AETH"
    wire = Aeth
    fields_desc = fields_of(Aeth)

    def mysummary(self) -> Any:
        """What the syndrome says."""
        kind = self.syndrome >> 5 & 3
        label = {item.value: item.name.replace("_", " ") for item in AckKind}.get(kind, f"syndrome {self.syndrome:#x}")
        return f"{label} messages completed {self.msn}", [BTH]


class AtomicAckETH(_Transport):
    """Atomic ACK Extended Transport Header; the value before the operation is ``original_``."""

    name = "AtomicAckETH"
    wire = AtomicAckEth
    fields_desc = fields_of(AtomicAckEth)


class ImmDT(_Transport):
    """Immediate data."""

    name = "ImmDt"
    wire = ImmDt
    fields_desc = fields_of(ImmDt)


class IETH(_Transport):
    """Invalidate Extended Transport Header."""

    name = "IETH"
    wire = Ieth
    fields_desc = fields_of(Ieth)


_LAYERS: dict[Any, type[Packet]] = {kind.wire: kind for kind in (RETH, AtomicETH, AETH, AtomicAckETH, ImmDT, IETH)}
_EXTENDED = {opcode: tuple(_LAYERS[codec.cls] for codec in codecs) for opcode, codecs in EXTENDED.items()}
"""Extended headers by operation, the lower five bits of the opcode."""


def extended_headers(opcode: int) -> tuple[type[Packet], ...]:
    """The headers that follow a BTH with this opcode, in order; none for transports that RDS and its CM never use."""
    transport, operation = opcode >> 5, opcode & 0x1F
    headers = _EXTENDED.get(operation, ())
    if transport == UD:
        return (DETH, *headers)
    return headers if transport in _CONNECTED else ()


def below(layer: Packet, kind: type[Packet]) -> Any:
    """The nearest layer of that kind under ``layer``, None where there is none."""
    found = layer.underlayer
    while found is not None and not isinstance(found, kind):
        found = found.underlayer
    return found


split_layers(UDP, roce.BTH, dport=ROCE_UDP_PORT)
split_layers(Ether, roce.GRH, type=ROCE_ETHERTYPE)
bind_layers(UDP, BTH, dport=ROCE_UDP_PORT)
bind_top_down(UDP, BTH, sport=ROCE_FIRST_SOURCE_PORT, dport=ROCE_UDP_PORT)
bind_layers(Ether, GRH, type=ROCE_ETHERTYPE)
bind_top_down(LRH, GRH, lnh=NextHeader.GRH)
bind_top_down(LRH, BTH, lnh=NextHeader.BTH)
bind_top_down(GRH, BTH, nexthdr=GRH_TRANSPORT)
bind_top_down(BTH, DETH, opcode=Opcode.UD_SEND_ONLY, dqpn=CM_QP)
bind_top_down(BTH, AETH, opcode=Opcode.ACKNOWLEDGE)
conf.l2types.register(LINKTYPE_INFINIBAND, LRH)
