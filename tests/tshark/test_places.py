"""Where RDS lies in a frame makes no difference to the plugin: it watches IP, and what IP puts together or unpacks."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from rdstool.tshark.program import Tshark
from tests.fuzz.damage import split
from tests.tshark.running import PLUGIN, ROOT, rows, run

ETHERNET, RAW, LOOPBACK = 1, 101, 0
RECORD, LINK, IPV4 = struct.Struct("<IIII"), 14, 20
FRAMES = 400
CUT = 512
"""Bytes of payload of a first fragment."""
GRE, IP_IN_IP = 47, 4


def outer(protocol: int, payload: bytes) -> bytes:
    header = struct.pack(">BBHHHBBH", 0x45, 0, IPV4 + len(payload), 0, 0, 64, protocol, 0)
    return header + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + payload


def fragments(frame: bytes, number: int) -> list[bytes]:
    """Every seventh long packet in two, the end first."""
    packet = frame[LINK:]
    if len(packet) < IPV4 + CUT + 8 or number % 7:
        return [frame]
    size = struct.unpack_from(">H", packet, 2)[0]
    ident = struct.pack(">H", number + 1)

    def part(length: int, bits: int, payload: bytes) -> bytes:
        head = packet[:2] + struct.pack(">H", IPV4 + length) + ident + struct.pack(">H", bits) + packet[8:IPV4]
        return frame[:LINK] + head + payload

    payload = packet[IPV4:size]
    return [part(len(payload) - CUT, CUT // 8, payload[CUT:]), part(CUT, 0x2000, payload[:CUT])]


PLACES: dict[str, tuple[int, Callable[[bytes, int], list[bytes]]]] = {
    "raw": (RAW, lambda frame, _: [frame[LINK:]]),
    "loopback": (LOOPBACK, lambda frame, _: [struct.pack("<I", 2) + frame[LINK:]]),
    "mpls": (ETHERNET, lambda frame, _: [frame[:12] + bytes.fromhex("884700010140") + frame[LINK:]]),
    "gre": (ETHERNET, lambda frame, _: [frame[:LINK] + outer(GRE, bytes.fromhex("00000800") + frame[LINK:])]),
    "ip in ip": (ETHERNET, lambda frame, _: [frame[:LINK] + outer(IP_IN_IP, frame[LINK:])]),
    "no total length": (ETHERNET, lambda frame, n: [frame if n % 5 else frame[:16] + bytes(2) + frame[18:]]),
    "fragments": (ETHERNET, fragments),
}


def write(path: Path, link: int, frames: list[bytes]) -> Path:
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)
    records = (RECORD.pack(number // 1000, number % 1000, len(f), len(f)) + f for number, f in enumerate(frames))
    path.write_bytes(header + b"".join(records))
    return path


def messages(tshark: Tshark, path: Path) -> list[tuple[str, ...]]:
    fields = ("rds.number", "rds.kind", "rds.sequence", "rds.length", "rds.src", "rds.complete")
    found = rows(tshark, path, fields, "-2")
    return [row for row in found if row[0]]


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-73"])
@pytest.mark.parametrize("place", PLACES)
def test_messages_are_found_wherever_ip_lies(place: str, name: str, tshark: Tshark, tmp_path: Path) -> None:
    _, records = split(gzip.decompress((ROOT / "pcaps" / name / "a.pcap.gz").read_bytes()))
    frames = [bytes(record[RECORD.size :]) for record in records]
    frames = [frame for frame in frames if frame[12:14] == b"\x08\x00"][:FRAMES]
    link, put = PLACES[place]
    plain = messages(tshark, write(tmp_path / "plain.pcap", ETHERNET, frames))
    put_there = [one for number, frame in enumerate(frames) for one in put(frame, number)]
    assert plain
    assert messages(tshark, write(tmp_path / "there.pcap", link, put_there)) == plain


TAKEN_AWAY = """
local gone = Proto("gone", "A plugin that was there before")
local places = {
   { "ethertype", 0x0800 },
   { "ethertype", 0x86dd },
   { "ip.proto", 6 },
   { "wtap_encap", wtap_encaps.RAW_IP },
   { "erf.types.type", 25 },
}
function gone.dissector() end
for _, place in ipairs(places) do
   local dissectors = DissectorTable.get(place[1])
   dissectors:add(place[2], gone)
   dissectors:remove(place[2], gone)
end
"""
"""Leaves the tables as "Reload Lua Plugins" does: what watched there before is gone, and what it watched is, too."""


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-61"])
def test_wiresharks_own_dissectors_are_found_after_a_reload_of_the_plugins(
    name: str, tshark: Tshark, tmp_path: Path
) -> None:
    reloaded = tmp_path / "reloaded.lua"
    reloaded.write_text(TAKEN_AWAY)
    shown, again = (
        run(tshark, "-r", str(ROOT / "pcaps" / name / "a.pcap.gz"), scripts=scripts)
        for scripts in ((PLUGIN,), (reloaded, PLUGIN))
    )
    assert " RDS " in shown
    assert again == shown
