"""Scapy layers for RDS: ``from dissectors.rds import RDS`` and Scapy dissects TCP port 16385 and RoCE.

Over TCP a segment can hold many messages, or the middle of one. A segment that begins with no likely header stays
``Raw``; messages in one segment follow each other as layers. ``sniff(offline=..., session=TCPSession)`` joins
messages that lie in several segments. For whole captures use ``rdstool``: it is many times as fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scapy.config import conf
from scapy.fields import StrFixedLenField
from scapy.layers.inet import TCP
from scapy.packet import Packet, Padding, Raw, bind_layers, bind_top_down

from dissectors.extensions import ExtensionsField, RDSNPaths, RDSRdmaBytes
from dissectors.infiniband import BTH, below, payload_guesses
from dissectors.layers import WireLayer, fields_of, patched
from dissectors.stress import RDSStress
from dissectors.wire.checksum import checksum_good, header_checksum
from dissectors.wire.congestion import BITMAP_BYTES, bitmap_of, congested_ports
from dissectors.wire.extensions import parse_extensions
from dissectors.wire.infiniband import Opcode
from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, PROBE_PORT, RDS_HEADER, TCP_PORT, Flags, RdsHeader
from dissectors.wire.stress import likely_message

MESSAGES_IN_A_ROW = 32
"""Most messages of one segment that become layers: Scapy recurses for each, and Python's stack is finite."""
SHOWN_PORTS = 20
"""Most ports of a congestion bitmap that are printed."""
_HEARTBEAT = Flags.HB_PING | Flags.HB_PONG


def likely_header(data: bytes) -> bool:
    """True where 48 bytes look like the header of a message over TCP, with at most one thing wrong.

    Over TCP the header has neither a magic number nor a checksum; what tells it from payload is its redundancy
    (protocol.md §13). One fault is let pass, so that a broken message is still shown as a message.
    """
    if len(data) < HEADER_BYTES or not any(data[:HEADER_BYTES]):
        return False
    header = RDS_HEADER.unpack_from(data)
    faults = (
        header.length > MAX_MESSAGE_BYTES,
        any(header.padding),
        header.flags & ~sum(Flags) != 0,
        header.ack != 0 or header.credit != 0,
        (header.sequence == 0) != (header.flags == Flags.CONG_BITMAP),
        parse_extensions(header.exthdr).problem is not None,
    )
    return sum(faults) <= 1


class RDS(WireLayer):
    """The RDS message header.

    ``length`` None: the bytes of the payload. Fragments over InfiniBand carry the length of the whole message;
    give it. ``checksum`` None: computed over InfiniBand, where every frame has one; 0 elsewhere, as kernels send it
    over TCP (``computed_checksum`` has the value). ``flags`` not given: EXTHDR_EXTENSION where ``exthdr`` holds
    RDMA_BYTES, as kernels from 7.0 set it (protocol.md §2).
    """

    name = "RDS"
    wire = RdsHeader
    fields_desc = fields_of(RdsHeader, auto=("length", "checksum"), replace={"exthdr": ExtensionsField})

    @classmethod
    def dispatch_hook(cls, _pkt: bytes = b"", *args: Any, **more: Any) -> type[Packet]:
        """``Raw`` for bytes that are too short, and for TCP payload that does not begin with a header."""
        if _pkt and (not cls.fits(_pkt) or (isinstance(more.get("_underlayer"), TCP) and not likely_header(_pkt))):
            return conf.raw_layer
        return cls

    @classmethod
    def tcp_reassemble(cls, data: bytes, metadata: dict[str, Any], session: dict[str, Any]) -> Packet | None:
        """Scapy's ``TCPSession``: the whole messages that ``data`` begins with; what follows them is ``Padding``.

        None where more bytes are needed. Bytes that begin with no likely header come back as ``Raw``.
        """
        end = 0
        taken = metadata.get("messages", 0)
        while len(data) - end >= HEADER_BYTES and taken < MESSAGES_IN_A_ROW:
            header = RDS_HEADER.unpack_from(data, end)
            if header.length > MAX_MESSAGE_BYTES or not likely_header(data[end : end + HEADER_BYTES]):
                if end == 0:
                    return Raw(data)
                break
            following = end + HEADER_BYTES + header.length
            if following > len(data):
                metadata["tcp_min_len"] = following - end
                break
            end = following
            taken += 1
        metadata["messages"] = taken
        if end == 0:
            return None
        messages = cls(data[:end])
        if len(data) > end:
            messages.add_payload(Padding(data[end:]))
        return messages

    @property
    def computed_checksum(self) -> int:
        """The checksum that the header, as it is built now, ought to have."""
        return header_checksum(bytes(self)[:HEADER_BYTES])

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Fill in length, flags and checksum where they are not given."""
        if self.length is None:
            pkt = patched(pkt, RdsHeader, length=self._own_bytes(len(pay)))
        if "flags" not in self.fields and any(isinstance(item, RDSRdmaBytes) for item in self.exthdr):
            pkt = patched(pkt, RdsHeader, flags=Flags.EXTHDR_EXTENSION)
        if self.checksum is None and below(self, BTH) is not None:
            pkt = patched(pkt, RdsHeader, checksum=header_checksum(pkt))
        return pkt + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """The payload, and what follows the message. Over InfiniBand nothing follows in the same packet."""
        if below(self, BTH) is not None or len(s) <= self.length:
            return s, None
        return s[: self.length], s[self.length :]

    def dissect(self, s: bytes) -> None:
        """Dissect the message and, as layers behind it, those that follow in the same segment."""
        payload, following = self.extract_padding(self.do_dissect(s))
        self.do_dissect_payload(payload)
        if following:
            last = self.lastlayer()
            again = likely_header(following) and self._position() < MESSAGES_IN_A_ROW
            last.add_payload((RDS if again else Padding)(following, _internal=1, _underlayer=last))

    def guess_payload_class(self, payload: bytes) -> type[Packet]:
        """A congestion bitmap, a message of rds-stress, or bytes that only the applications understand."""
        if self.flags == Flags.CONG_BITMAP and len(payload) == BITMAP_BYTES:
            return RDSCongestion
        return RDSStress if likely_message(payload, self.sport, self.dport) else Raw

    def answers(self, other: Packet) -> bool:
        """A pong answers the ping whose source port it is sent to."""
        return isinstance(other, RDS) and (self.sport, self.dport) == (other.dport, other.sport)

    def mysummary(self) -> str:
        """The message in plain words."""
        again = " (retransmitted)" if self.flags & Flags.RETRANSMITTED else ""
        return f"RDS {self._words()}{again}"

    def _do_summary(self) -> tuple[int, str, list[Any]]:
        # Scapy prints what the highest layer says, which is no more than "Raw" for most messages.
        _, behind, needed = self.payload._do_summary()
        if isinstance(self.payload, Raw):
            behind = behind.removeprefix("Raw").removeprefix(" / ")
        return 1, " / ".join(filter(None, (self.mysummary(), behind))), [*needed, TCP, BTH]

    def _words(self) -> str:
        ports = (self.sport, self.dport)
        length = self._own_bytes(len(self.payload)) if self.length is None else self.length
        infiniband = below(self, BTH) is not None
        paths = next((f", {item.npaths} paths" for item in self.exthdr if isinstance(item, RDSNPaths)), "")
        data = f"message {self.sequence} from port {self.sport} to port {self.dport}, {length} bytes"
        # In the order in which a kernel tells them apart (protocol.md §1.3).
        kinds = (
            (self.flags & _HEARTBEAT and ports == (0, 0), "heartbeat"),
            (infiniband and ports == (0, 0) and length == 0, f"acknowledgement of messages up to {self.ack}"),
            (self.flags == Flags.CONG_BITMAP, "congestion bitmap"),
            (ports == (PROBE_PORT, 0) and not infiniband, f"handshake probe{paths}"),
            (self.dport == 0 and self.sport != 0, f"ping from port {self.sport}"),
            (ports == (0, PROBE_PORT) and not infiniband, f"handshake answer{paths}"),
            (self.sport == 0 and self.dport != 0, f"pong to port {self.dport}"),
        )
        return next((words for applies, words in kinds if applies), data)

    def _own_bytes(self, payload_bytes: int) -> int:
        """Of the bytes behind this header, those before the next message."""
        if self.payload.getlayer(RDS) is None:
            return payload_bytes
        total = 0
        layer = self.payload
        while not isinstance(layer, RDS):
            total += len(layer.self_build())
            layer = layer.payload
        return total

    def _position(self) -> int:
        """Number of this message among those of its segment, from 1."""
        count = 1
        layer: Any = self
        while (layer := below(layer, RDS)) is not None:
            count += 1
        return count


class _PortsField(StrFixedLenField):
    """The 8192 bytes of a congestion bitmap as the list of the ports whose bit is set."""

    islist = 1

    def __init__(self, name: str) -> None:
        super().__init__(name, [], BITMAP_BYTES)  # type: ignore[arg-type]

    def any2i(self, pkt: Packet | None, x: Iterable[int] | bytes | None) -> Any:
        """Accept a bitmap or port numbers; the list is ascending."""
        if isinstance(x, bytes):
            return congested_ports(x)
        return sorted(set(x or ()))

    def m2i(self, pkt: Packet | None, x: bytes) -> Any:
        """The ports of a bitmap."""
        return congested_ports(x)

    def i2m(self, pkt: Packet | None, x: Any) -> bytes:
        """The bitmap of the ports."""
        return bitmap_of(x)

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        """The first ports and how many there are."""
        shown = ", ".join(str(port) for port in x[:SHOWN_PORTS])
        return f"[{shown}{', ...' if len(x) > SHOWN_PORTS else ''}] ({len(x)} congested)"


class RDSCongestion(Packet):
    """The payload of a congestion update: which ports of the sender's address are congested (protocol.md §3.1)."""

    name = "RDS congestion bitmap"
    fields_desc = [_PortsField("ports")]  # noqa: RUF012

    @classmethod
    def dispatch_hook(cls, _pkt: bytes = b"", *args: Any, **more: Any) -> type[Packet]:
        """``Raw`` for bytes that are no whole bitmap."""
        return conf.raw_layer if _pkt and len(_pkt) < BITMAP_BYTES else cls

    def mysummary(self) -> str:
        """How many ports, and which where they are few."""
        if len(self.ports) > SHOWN_PORTS:
            return f"{len(self.ports)} ports congested"
        return f"congested ports: {', '.join(map(str, self.ports)) or 'none'}"


def _rds_in_send(bth: BTH, payload: bytes) -> type[Packet] | None:
    """RDS in the first packet of a SEND, told by its header checksum: kernels compute it on every frame."""
    first = bth.opcode in {Opcode.SEND_FIRST, Opcode.SEND_ONLY}
    return RDS if first and len(payload) >= HEADER_BYTES and checksum_good(payload) else None


payload_guesses.append(_rds_in_send)
bind_layers(TCP, RDS, sport=TCP_PORT)
bind_layers(TCP, RDS, dport=TCP_PORT)
bind_top_down(TCP, RDS, dport=TCP_PORT)
bind_top_down(RDS, RDSCongestion, flags=int(Flags.CONG_BITMAP))
bind_top_down(BTH, RDS, opcode=int(Opcode.SEND_ONLY), solicited=1)
