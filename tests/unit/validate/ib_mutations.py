"""One change to a faultless RoCE conversation for each rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dissectors.wire.checksum import with_checksum
from dissectors.wire.cm import SERVICE_ID_TCP, Attribute, CmRej, RejectReason
from dissectors.wire.extensions import Rdma, RdmaBytes, RdmaDest, RdmaDirection, build_extensions
from dissectors.wire.infiniband import Opcode
from dissectors.wire.rds import RDS_HEADER, TCP_PORT, RdsHeader
from rdstool.validate.view import REORDER_FRAMES
from tests.kit.ib import ACK, EXTENDED, FLAGGED, RKEY, Cm, Fragment, Script, Send, Side, Write, conversation, reconnect
from tests.kit.rds import header, text
from tests.unit.validate.catalogue import Catalogue

MUTATIONS = Catalogue[Script]()
breaks = MUTATIONS.breaks
FLOW_CONTROL = frozenset({"RDS-CMR-009"})
"""What credits in the private data break by themselves."""


def changed(label: str, **fields: object) -> Script:
    """The faultless conversation with one header changed."""
    script = conversation()
    script.change(label, **fields)
    return script


def private(label: str, **fields: object) -> Script:
    """The same, with other private data of RDS."""
    script = conversation()
    script.private(label, **fields)
    return script


def fragmented(label: str, edit: Callable[[list[Fragment]], None]) -> Script:
    """The same, with the frames of one message changed."""
    script = conversation()
    script[label].edit = edit
    return script


def reheaded(fragment: Fragment, **fields: object) -> None:
    """Change a frame's header and make its checksum right again."""
    changed_header = replace(RDS_HEADER.unpack_from(fragment.header), **fields)  # type: ignore[arg-type]
    fragment.header = with_checksum(changed_header)


@breaks("RDS-HDR-001")
def short_frame() -> Script:
    def cut(fragments: list[Fragment]) -> None:
        fragments[0].header = fragments[0].header[:20]

    script = conversation()
    script.after("a4", Send(0, header(0, 0, 0, 0, ack=3), label="short", edit=cut))
    return script


@breaks("RDS-HDR-005")
def wrong_checksum() -> Script:
    def spoil(fragments: list[Fragment]) -> None:
        raw = bytearray(fragments[0].header)
        raw[30] ^= 1
        fragments[0].header = bytes(raw)

    return fragmented("a5", spoil)


@breaks("RDS-HDR-006")
def no_checksum() -> Script:
    script = conversation()
    script["a5"].checksummed = False
    return script


MUTATIONS["RDS-EXT-008"] = lambda: changed("a3", flags=0)
MUTATIONS["RDS-EXT-009"] = lambda: changed("a3", exthdr=build_extensions([Rdma(RKEY), RdmaBytes(512, 3)]))
MUTATIONS["RDS-EXT-011"] = lambda: changed("a3", flags=0, exthdr=build_extensions([Rdma(RKEY), RdmaDest(5, 0)]))


@breaks("RDS-RTX-004")
def resent_without_asking() -> Script:
    script = reconnect()
    script.change("a5.again", flags=FLAGGED)
    return script


@breaks("RDS-RTX-005")
def resent_with_rdma() -> Script:
    script = reconnect()
    script.change("a5.again", exthdr=build_extensions([Rdma(RKEY)]))
    script.steps.insert(script.index("a5.again"), Write(0, RKEY, text(512), "write2"))
    return script


MUTATIONS["RDS-ACK-001"] = lambda: changed("a5", ack=2)


@breaks("RDS-ACK-002")
def future_ack() -> Script:
    script = changed("b3", ack=9)
    script.change("b4", ack=9)
    script.after("b3", *(Side(0).ack_only("a.ack", 3) for _ in range(REORDER_FRAMES // 2)))
    return script


MUTATIONS["RDS-ACK-003"] = lambda: changed("a.ack", flags=ACK)


@breaks("RDS-ACK-004")
def not_acknowledged() -> Script:
    script = changed("a4", flags=ACK)
    script.change("b4", ack=3)
    return script


MUTATIONS["RDS-ACK-005"] = lambda: changed("a1", flags=0)


@breaks("RDS-ACK-006")
def seldom_asks() -> Script:
    script = conversation()
    a = Side(0)
    a.next = 6
    script.steps += [a.data(f"a{number}", 20, ack=4) for number in range(6, 12)]
    return script


@breaks("RDS-CMR-001")
def wrong_service() -> Script:
    script = conversation()
    script.body("req", service_id=SERVICE_ID_TCP | TCP_PORT)
    return script


@breaks("RDS-CMR-002")
def wrong_ip_header() -> Script:
    script = conversation()
    script["req"].ip = replace(script["req"].ip, version=1)
    return script


MUTATIONS["RDS-CMR-003"] = lambda: private("req", major=0)


@breaks("RDS-CMR-004")
def unknown_version() -> Script:
    script = private("req", minor=0)
    script.steps = [script["req"]]
    return script


MUTATIONS["RDS-CMR-005"] = lambda: private("rep", minor=2)
MUTATIONS["RDS-CMR-006"] = lambda: private("rep", daddr=bytes((10, 9, 9, 9)))
MUTATIONS["RDS-CMR-007"] = lambda: private("rep", tos=3)
MUTATIONS["RDS-CMR-008"] = lambda: private("req", reserved=1)
MUTATIONS["RDS-CMR-009"] = lambda: private("req", ack_seq=5)


@breaks("RDS-CMR-010")
def many_retries() -> Script:
    script = conversation()
    script.body("req", retry_count=5)
    return script


@breaks("RDS-CMR-011")
def refused() -> Script:
    script = conversation()
    asked = script["req"]
    first = replace(asked, body=replace(asked.body, local_comm_id=0x150), label="req0", transaction=0x9000)
    body = CmRej(local_comm_id=0x250, remote_comm_id=0x150, reason=RejectReason.CONSUMER)
    no = Cm(1, body, Attribute.REJ, None, (1).to_bytes(4, "little"), label="rej", transaction=0x9000)
    script.steps[:0] = [first, no]
    return script


@breaks("RDS-FRG-001")
def immediate() -> Script:
    def mark(fragments: list[Fragment]) -> None:
        fragments[0].opcode = Opcode.SEND_ONLY_IMMEDIATE

    return fragmented("a5", mark)


@breaks("RDS-FRG-002")
def long_fragment() -> Script:
    def join(fragments: list[Fragment]) -> None:
        fragments[0].data += fragments[1].data
        fragments[0].solicited = True
        del fragments[1]

    return fragmented("b3", join)


@breaks("RDS-FRG-003")
def short_fragment() -> Script:
    def shift(fragments: list[Fragment]) -> None:
        fragments[2].data = fragments[1].data[-96:] + fragments[2].data
        fragments[1].data = fragments[1].data[:-96]

    return fragmented("a2", shift)


@breaks("RDS-FRG-004")
def foreign_fragment() -> Script:
    return fragmented("a2", lambda fragments: reheaded(fragments[1], sequence=77))


@breaks("RDS-FRG-005")
def changed_header() -> Script:
    return fragmented("a2", lambda fragments: reheaded(fragments[1], ack=0))


@breaks("RDS-FRG-006")
def not_solicited() -> Script:
    def clear(fragments: list[Fragment]) -> None:
        fragments[0].solicited = False

    return fragmented("a5", clear)


MUTATIONS["RDS-CRD-001"] = lambda: changed("a5", credit=3)


def credited(credit: int) -> Script:
    """Both sides give credits."""
    script = private("req", credit=credit)
    script.private("rep", credit=credit)
    return script


MUTATIONS["RDS-CRD-002"] = lambda: credited(2)


@breaks("RDS-CRD-003")
def credits_on_each() -> Script:
    def grant(fragments: list[Fragment]) -> None:
        for fragment in fragments[1:]:
            reheaded(fragment, credit=1)

    return fragmented("a2", grant)


@breaks("RDS-CRD-004")
def too_many_credits() -> Script:
    script = credited(16380)
    script.change("a5", credit=200)
    return script


@breaks("RDS-RDM-001")
def no_operation() -> Script:
    script = conversation()
    script.drop("write")
    return script


def announced(length: int = 512, direction: int = RdmaDirection.WRITE) -> Script:
    """The message behind the write says so much of it."""
    return changed("a3", exthdr=build_extensions([Rdma(RKEY), RdmaBytes(length, direction)]))


MUTATIONS["RDS-RDM-002"] = lambda: announced(400)
MUTATIONS["RDS-RDM-003"] = lambda: announced(direction=RdmaDirection.READ)


@breaks("RDS-RDM-004")
def unknown_key() -> Script:
    script = changed("a3", flags=EXTENDED, exthdr=build_extensions([Rdma(0x999), RdmaBytes(512, 1)]))
    script["write"].rkey = 0x999
    return script


@breaks("RDS-RDM-005")
def long_operation() -> Script:
    script = announced(2 << 20)
    script["write"].claimed = 2 << 20
    return script


MUTATIONS["RDS-RDM-006"] = lambda: changed("b2", exthdr=build_extensions([RdmaDest(RKEY, 5000)]))

ALSO = {"RDS-CRD-002": FLOW_CONTROL, "RDS-CRD-004": FLOW_CONTROL}
"""Rules that a mutation cannot help breaking too."""


def acknowledged_between() -> Script:
    """An ack-only frame stands between two fragments, which have the message's older acknowledgement."""
    script = conversation()
    only = Fragment(with_checksum(RdsHeader(ack=3)), b"", solicited=True)
    script["b3"].edit = lambda fragments: fragments.insert(1, only)
    script.change("b3", ack=2)
    return script


CLEAN: dict[str, Callable[[], Script]] = {
    "conversation": conversation,
    "reconnect": reconnect,
    "acknowledged between": acknowledged_between,
}
