"""One change to a faultless TCP conversation for each rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dissectors.wire.checksum import with_checksum
from dissectors.wire.extensions import GenNum, NPaths, Rdma, SportIdx, build_extensions
from dissectors.wire.rds import RDS_HEADER
from rdstool.protocol.pathhash import path_of_port
from tests.kit.rds import MODERN, OLD, header, text
from tests.kit.tcp import (
    LARGE,
    SMALL,
    End,
    Open,
    Raw,
    Script,
    Send,
    Side,
    Wait,
    conversation,
    opening,
    single_path,
)
from tests.unit.validate.catalogue import Catalogue

MUTATIONS = Catalogue[Script]()
breaks = MUTATIONS.breaks


def changed(label: str, **fields: object) -> Script:
    """The faultless conversation with one header changed."""
    script = conversation()
    script.change(label, **fields)
    return script


def extended(label: str, exthdr: bytes) -> Script:
    """The same, with other extension headers."""
    return changed(label, exthdr=exthdr.ljust(16, b"\0"))


@breaks("RDS-HDR-002")
def too_long() -> Script:
    script = changed("a2.4", length=(1 << 20) + 1)
    script["a2.4"].payload = bytes((1 << 20) + 1)
    return script


MUTATIONS["RDS-HDR-003"] = lambda: changed("a2.4", padding=b"\0\0\0\1")
MUTATIONS["RDS-HDR-004"] = lambda: changed("a2.4", flags=0x40)
MUTATIONS["RDS-HDR-005"] = lambda: changed("a2.4", checksum=0x1234)


@breaks("RDS-HDR-007")
def checksummed() -> Script:
    script = conversation()
    step = script["a2.4"]
    step.header = RDS_HEADER.unpack_from(with_checksum(step.header))
    return script


MUTATIONS["RDS-HDR-008"] = lambda: changed("a2.4", ack=7)
MUTATIONS["RDS-HDR-009"] = lambda: changed("a2.4", flags=0x02)
MUTATIONS["RDS-HDR-010"] = lambda: changed("a2.4", sport=0, dport=0)
MUTATIONS["RDS-HDR-011"] = lambda: changed("a2.4", sport=1)


@breaks("RDS-HDR-012")
def ping_with_payload() -> Script:
    script = changed("a.ping", length=5)
    script["a.ping"].payload = b"hello"
    return script


MUTATIONS["RDS-EXT-001"] = lambda: extended("a2.4", b"\x10")
MUTATIONS["RDS-EXT-002"] = lambda: extended("a2.4", b"\0\1")
MUTATIONS["RDS-EXT-003"] = lambda: extended("a.reply", build_extensions([NPaths(8), NPaths(8)]))
MUTATIONS["RDS-EXT-004"] = lambda: extended("a2.4", b"\x0a")
MUTATIONS["RDS-EXT-005"] = lambda: extended("a2.4", build_extensions([NPaths(8)]))
MUTATIONS["RDS-EXT-007"] = lambda: extended("b.reply", build_extensions([NPaths(8), GenNum(1), SportIdx()]))
MUTATIONS["RDS-EXT-010"] = lambda: extended("a2.4", build_extensions([Rdma(7)]))


@breaks("RDS-EXT-006")
def handshake_without_paths() -> Script:
    script, a, b = single_path()
    script.steps += [a.control("one", "probe", 1, 0, (GenNum(5),)), b.control("one", "reply", 0, 1)]
    return script


MUTATIONS["RDS-SEQ-001"] = lambda: changed("a2.4", sequence=0)
MUTATIONS["RDS-SEQ-002"] = lambda: changed("a2.4", sequence=3)
MUTATIONS["RDS-SEQ-003"] = lambda: changed("a2.4", sequence=9)
MUTATIONS["RDS-SEQ-004"] = lambda: changed("a.bitmap", sequence=5)


@breaks("RDS-SEQ-005")
def late_start() -> Script:
    script = changed("a6.1", sequence=5)
    script.change("a6.2", sequence=6)
    return script


def again() -> Script:
    """Path 2 is closed and made again behind the conversation; nothing is wrong."""
    script = conversation()
    script.steps += [End("p2", 0), End("p2", 1), Open("p2b", 32786)]
    script.steps += [Side(1).bitmap("p2b", "b2b.bitmap")]
    return script


@breaks("RDS-SEQ-006")
def numbering_starts_again() -> Script:
    script = again()
    script.steps += [Send("p2b", 0, header(2, 33, 4001, 7000), text(33))]
    return script


@breaks("RDS-RTX-001")
def resent_without_flag() -> Script:
    script = again()
    last = script["a2.4"]
    script.steps += [Send("p2b", 0, last.header, last.payload), End("p2b", 0), End("p2b", 1)]
    return script


@breaks("RDS-RTX-002")
def resent_with_other_payload() -> Script:
    script = again()
    last = script["a2.4"]
    last.acked = False
    script.steps += [Send("p2b", 0, replace(last.header, flags=4), bytes(len(last.payload)))]
    script.steps += [End("p2b", 0), End("p2b", 1)]
    return script


MUTATIONS["RDS-RTX-003"] = lambda: changed("a2.4", flags=4)


@breaks("RDS-RTX-006")
def flagged_at_first() -> Script:
    script, _, _ = single_path()
    script.change("a1", flags=4)
    return script


@breaks("RDS-CNG-001")
def short_bitmap() -> Script:
    script = changed("a.bitmap", length=100)
    script["a.bitmap"].payload = bytes(100)
    return script


@breaks("RDS-CNG-002")
def bitmap_with_flags() -> Script:
    script = conversation()
    script.after("a.reply", Side(0).bitmap("p0", "odd"))
    script.change("odd", flags=0x03)
    return script


MUTATIONS["RDS-CNG-003"] = lambda: changed("a.bitmap", sport=9)


@breaks("RDS-CNG-004")
def no_bitmap() -> Script:
    script = conversation()
    script.drop("a.bitmap")
    return script


@breaks("RDS-CNG-005")
def congestion_ignored() -> Script:
    script = conversation()
    script.after("b2.1", Side(1).bitmap("p2", "marks", 7000))
    return script


@breaks("RDS-CNG-006")
def low_port_marked() -> Script:
    script = conversation()
    script.after("b2.1", Side(1).bitmap("p2", "marks", 1))
    return script


@breaks("RDS-MPR-001")
def no_pong() -> Script:
    script = changed("a.ping", sport=5001)
    script.change("b.pong2", sequence=script["b.pong"].header.sequence)
    script.drop("b.pong")
    script.steps.insert(script.index("a.ping2"), Wait(3.0))
    return script


MUTATIONS["RDS-MPR-002"] = lambda: conversation((NPaths(2),))


@breaks("RDS-MPR-003")
def second_connection_at_once() -> Script:
    script = conversation()
    second = script.opening("p2")
    script.steps.remove(second)
    script.after("a.bitmap", second)
    return script


@breaks("RDS-MPR-004")
def probe_elsewhere() -> Script:
    script = conversation(OLD)
    a, b = Side(0), Side(1)
    a.next, b.next = 5, 5
    script.steps += [Send("p2", 0, header(5, 0, 1, 0, extensions=OLD))]
    script.steps += [Send("p2", 1, header(3, 0, 0, 1, extensions=OLD))]
    script.steps += [a.control("p0", "a.ping3", 5000, 0), b.control("p0", "b.pong3", 0, 5000)]
    return script


@breaks("RDS-MPR-005")
def wrong_source_port() -> Script:
    script = conversation()
    script.opening("p0").port = 32777
    return script


@breaks("RDS-MPR-006")
def socket_moves() -> Script:
    return changed("a6.2", sport=4001)


def ports_of(path: int) -> list[int]:
    """RDS ports of that path, in either byte order, among 8."""
    swapped = [(port & 0xFF) << 8 | port >> 8 for port in range(65536)]
    return [p for p in range(4100, 9000) if path_of_port(p, 8) == path and path_of_port(swapped[p], 8) != 6]


@breaks("RDS-MPR-007")
def foreign_hash() -> Script:
    first, second, *_ = ports_of(3)
    script = changed("a6.1", sport=first)
    script.change("a6.2", sport=second)
    return script


@breaks("RDS-MPR-008")
def no_catching_up() -> Script:
    script = conversation()
    for label in ("a.bitmap", "a.probe", "a.reply", "a.ping"):
        script[label].acked = False
    return script


@breaks("RDS-TCP-001")
def larger_dials() -> Script:
    script, a, _ = single_path()
    script.steps += [Open("wrong", 41000, LARGE, SMALL), Wait(6.0), a.data("one", "a4", 4001, 7000, 5)]
    return script


@breaks("RDS-TCP-002")
def larger_speaks() -> Script:
    script, _, _ = single_path()
    opened = script.opening("one")
    opened.client, opened.server = LARGE, SMALL
    return script


@breaks("RDS-TCP-003")
def ends_in_a_message() -> Script:
    script = conversation()
    script.steps += [Raw("p6", 0, bytes(20)), End("p6", 0)]
    return script


@breaks("RDS-TCP-004")
def path_dialled_twice() -> Script:
    script = conversation()
    port = next(port for port in ports_of(2) if port > 4200)
    second = Send("p2b", 0, header(5, 12, port, 7000), text(12))
    script.after("b2.2", Open("p2b", 32786), second)
    return script


def numbers_of_two_paths() -> Script:
    """A socket has the same numbers on path 0, before the fan-out, and on its own path when that is made again."""
    a, b, a1, b1 = Side(0), Side(1), Side(0), Side(1)
    steps = opening("p0", 40000, a, b, OLD)
    steps += [a.data("p0", "", 4001, 7000, 100) for _ in range(4)]
    steps += [Open("x1", 40010), b1.bitmap("x1", ""), a1.data("x1", "", 4001, 7000, 100)]
    steps += [b1.data("x1", "", 7000, 4001, 10), a1.data("x1", "", 4001, 7000, 100)]
    steps += [End("x1", 0), End("x1", 1), Open("y1", 40020), b1.bitmap("y1", "")]
    steps += [b1.data("y1", "", 7000, 4001, 10), *(a1.data("y1", "", 4001, 7000, 100) for _ in range(4))]
    return Script(steps)


CLEAN: dict[str, Callable[[], Script]] = {
    "7.x": lambda: conversation(MODERN),
    "6.x": lambda: conversation(OLD),
    "single path": lambda: single_path()[0],
    "made again": again,
    "numbers of two paths": numbers_of_two_paths,
}
