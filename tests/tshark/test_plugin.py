"""What the plugin shows and what it leaves alone."""

from __future__ import annotations

import gzip
import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from dissectors.wire.encapsulation import ICRC_BYTES, ROCE_UDP_PORT
from dissectors.wire.infiniband import BTH, Bth, Opcode
from dissectors.wire.rds import RDS_HEADER
from rdstool.capture.pipeline import open_capture
from rdstool.export.lua.derived import PLUGIN_FIELDS
from rdstool.tshark.program import Tshark
from rdstool.validate.alone import ALONE
from tests.fuzz.damage import (
    FRAME_DAMAGE,
    ORDER_DAMAGE,
    RECORD_HEADER_BYTES,
    Frames,
    cut_frame,
    sources,
    split,
)
from tests.kit import ib, tcp
from tests.kit.pcap import IP_TCP, IP_UDP, Pcap
from tests.kit.rds import bitmap
from tests.kit.tsharks import NEWER, newer_tshark, system_tshark
from tests.tshark.running import PCAPS, PLUGIN, ROOT, STRESS, compare, rows, run
from tests.unit.validate.checking import findings
from tests.unit.validate.mutations import CASES, CLEAN, Script

MUTATED = 2000
"""Damaged captures that are read without an error of Lua."""
SLICE_FRAMES = 24
MIN_FRAME_BYTES = 60
"""Of a frame that is damaged inside."""
BATCHES = 4
WINDOW_CHARACTERS = 75
"""In a line of a window for text in Wireshark."""
CUT = 0.2
"""Share of damaged frames that are cut short too."""
LUA_ERRORS = (
    *("-Y", '_ws.expert.message contains "Lua Error"', "-T", "fields"),
    *("-e", "frame.number", "-e", "_ws.expert.message"),
)

# ---- One pass and two passes.

AHEAD = {field.name for field in PLUGIN_FIELDS if field.ahead}
COMPARED = ("frame.number", "rds.number", "rds.kind", "rds.sequence", "rds.stream", "rds.path", "rds.complete")
LINKS = ("rds.expected", "rds.request_in", "rds.response_time", "rds.acknowledges", "rds.ack_time", "rds.frame")


@pytest.mark.parametrize("path", PCAPS[::3], ids=lambda path: path.parent.name)
def test_one_pass_and_two_give_the_same(path: Path) -> None:
    tshark = newer_tshark()
    fields = (*COMPARED, *LINKS, "rds.retransmission_of", "_ws.expert.message")
    assert rows(tshark, path, fields) == rows(tshark, path, fields, "-2")


def test_the_second_pass_adds_links_ahead_that_fit_those_back(tshark: Tshark) -> None:
    path = PCAPS[[path.parent.name for path in PCAPS].index("tcp-basic-73")]
    answered = rows(tshark, path, ("frame.number", "rds.response_in"), "-2", "-Y", "rds.response_in")
    answers = rows(tshark, path, ("frame.number", "rds.request_in"), "-2", "-Y", "rds.request_in")
    assert answered
    assert {(ping, pong) for ping, pongs in answered for pong in pongs.split("|")} == {
        (ping, pong) for pong, pings in answers for ping in pings.split("|")
    }
    assert {"rds.response_in", "rds.acked_in"} == AHEAD


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-73"])
def test_of_every_numbered_message_behind_the_first_it_is_told_which_number_was_due(name: str, tshark: Tshark) -> None:
    path = PCAPS[[path.parent.name for path in PCAPS].index(name)]
    numbered = '!(rds.kind in {"ack", "congestion", "heartbeat"})'
    shown = rows(tshark, path, ("frame.number", "rds.expected"), "-Y", f"rds.sequence > 1 and {numbered}")
    assert len(shown) > 50
    assert [frame for frame, expected in shown if not expected] == []


# ---- The tree.


def test_the_tree_says_in_words_what_a_bitmap_is_and_which_flags_it_has(tshark: Tshark) -> None:
    path = PCAPS[[path.parent.name for path in PCAPS].index("tcp-congestion-73")]
    text = run(tshark, "-r", str(path), "-Y", "frame.number == 155", "-O", "rds")
    tree = [line.strip() for line in text.splitlines()]
    told = tree[tree.index("Length: 8192") :]
    assert told[1:4] == ["Source port: 0", "Destination port: 0", "Flags: 0x01 (CONG_BITMAP)"]
    assert told[4:6] == [".... ...1 = Congestion bitmap: Set", ".... ..0. = Acknowledgement required: Not set"]
    assert {"[Congested port: 1121 (new)]", "[Newly congested port: 1121]"} <= set(told)


# ---- Rules.


def told(tshark: Tshark, path: Path) -> Counter[tuple[int, str]]:
    shown = rows(tshark, path, ("frame.number", "_ws.expert.message"), "-Y", "_ws.expert")
    return Counter(
        (int(frame), text.partition(":")[0])
        for frame, messages in shown
        for text in messages.split("|")
        if text.startswith("RDS-")
    )


def native(path: Path) -> Counter[tuple[int, str]]:
    return Counter((finding.frame, finding.rule) for finding in findings(path) if finding.rule in ALONE)


@pytest.mark.parametrize(
    ("rule", "make"),
    [(rule, make) for _, rule, make in CASES if rule in ALONE],
    ids=[f"{rule}-{transport}" for transport, rule, _ in CASES if rule in ALONE],
)
def test_a_broken_rule_is_told_where_validate_tells_it(rule: str, make: Callable[[], Script], tmp_path: Path) -> None:
    path = make().write(tmp_path / "broken.pcap")
    found = told(system_tshark(), path)
    assert found == native(path)
    assert rule in {name for _, name in found}


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_told_of_what_is_faultless(name: str, tmp_path: Path) -> None:
    assert told(system_tshark(), CLEAN[name]().write(tmp_path / "clean.pcap")) == Counter()


def test_a_group_of_rules_can_be_switched_off(tmp_path: Path) -> None:
    _, _, make = next(case for case in CASES if case[1] == "RDS-HDR-003")
    path = make().write(tmp_path / "broken.pcap")
    assert told(system_tshark(), path)
    shown = rows(system_tshark(), path, ("_ws.expert.message",), "-Y", "_ws.expert", "-o", "rds.check_hdr:FALSE")
    assert not [row for row in shown if "RDS-HDR" in row[0]]


# ---- Sub-dissectors, other ports, other protocols.


def stress_capture(path: Path, port: int = 4001) -> Path:
    script, a, _ = tcp.single_path()
    step = a.data("one", "", port, 7000, 100)
    head = struct.pack(">I4s4sHHHBB", 7, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), port, 7000, 3, 1, 0)
    step.payload = head.ljust(100, b"\0")
    script.steps.append(step)
    return script.write(path)


def test_queue_pairs_whose_numbers_are_used_again_are_another_connection(
    tshark: Tshark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ib, "GENERATION", 0)
    path = ib.reconnect().write(tmp_path / "again.pcap")
    assert compare(path, tshark) == []
    assert {stream for (stream,) in rows(tshark, path, ["rds.stream"], "-Y", "rds")} == {"0", "1"}


@pytest.mark.parametrize(("name", "below"), [("tcp-basic-73", "TCP"), ("ib-basic-73", "RRoCE")])
def test_a_part_of_a_message_keeps_the_columns_of_what_carries_it(name: str, below: str, tshark: Tshark) -> None:
    path = ROOT / "pcaps" / name / "a.pcap.gz"
    protocols = ("-r", str(path), "-o", 'gui.column.format:"Protocol","%p"', "-Y")
    assert set(run(tshark, *protocols, "rds").split()) == {"RDS"}
    assert set(run(tshark, *protocols, "rds_part && !rds && !rds.stream.event").split()) == {below}


def test_payload_goes_to_the_dissector_of_its_destination_port(tshark: Tshark, tmp_path: Path) -> None:
    path = stress_capture(tmp_path / "stress.pcap")
    fields = ("-T", "fields", "-e", "rds_stress.sequence", "-e", "rds_stress.index")
    both = (PLUGIN, STRESS)
    arguments = ("-r", str(path), *fields, "-Y", "rds_stress")
    assert run(tshark, *arguments, scripts=both) == ""
    assert run(tshark, *arguments, "-o", "rds_stress.ports:7000", scripts=both) == "7\t3\n"


def test_decode_as_has_a_dissector_for_payload_of_all_ports(tmp_path: Path) -> None:
    path = stress_capture(tmp_path / "stress.pcap")
    fields = ("-T", "fields", "-e", "rds_stress.sequence", "-e", "rds_stress.index", "-Y", "rds_stress")
    chosen = ("-r", str(path), "-d", "rds.payload,rds_stress")
    assert run(newer_tshark(), *chosen, *fields, scripts=(PLUGIN, STRESS)) == "7\t3\n"


def test_payload_that_its_dissector_gives_up_on_hides_no_message(tshark: Tshark, tmp_path: Path) -> None:
    script, a, _ = tcp.single_path()
    steps = [a.data("one", "", 4001, 7000, 3) for _ in range(3)]
    joined = b"".join(RDS_HEADER.pack(step.header) + step.payload for step in steps)
    script.steps.append(tcp.Raw("one", steps[0].direction, joined))
    path = script.write(tmp_path / "short.pcap")
    dns = tmp_path / "dns.lua"
    dns.write_text('DissectorTable.get("rds.port"):add(7000, Dissector.get("dns"))\n')
    fields = ("-T", "fields", "-e", "rds.sequence", "-e", "_ws.expert.message", "-Y", "rds.dport == 7000")
    shown = run(tshark, "-r", str(path), *fields, scripts=(PLUGIN, dns)).splitlines()[-1]
    assert shown.startswith(",".join(str(step.header.sequence) for step in steps) + "\t")
    assert "Lua Error" not in shown


def test_other_tcp_ports_are_found_by_what_they_carry_or_by_preference(tshark: Tshark, tmp_path: Path) -> None:
    script = tcp.conversation()
    for step in script.steps:
        if isinstance(step, tcp.Open):
            step.server_port = 20123
    path = script.write(tmp_path / "odd.pcap")
    usual = tcp.conversation().write(tmp_path / "usual.pcap")
    expected = [row[1:] for row in rows(tshark, usual, ("frame.number", "rds.kind", "rds.sequence"), "-Y", "rds")]
    for choice in ((), ("-o", "rds.tcp_ports:20123"), ("-d", "tcp.port==20123,rds")):
        found = rows(tshark, path, ("frame.number", "rds.kind", "rds.sequence"), "-Y", "rds", *choice)
        assert [row[1:] for row in found] == expected


def roce(capture: Pcap, payload: bytes, psn: int, opcode: int = Opcode.SEND_ONLY) -> None:
    padding = -len(payload) % 4
    bth = BTH.pack(Bth(opcode=opcode, dqpn=0x55, psn=psn, solicited=1, padcount=padding))
    body = bth + payload + bytes(padding + ICRC_BYTES)
    udp = struct.pack(">HHHH", 50000, ROCE_UDP_PORT, 8 + len(body), 0)
    capture.ip("10.1.0.1", "10.1.0.2", IP_UDP, udp + body)


ISER = bytes.fromhex("10000000") + bytes(24) + bytes.fromhex("0181000000000000") + bytes(40)
"""iSER control header with both keys unused, then an iSCSI PDU."""
SMC_R = bytes((0xFE, 44, 0, 0)) + bytes(range(40))
"""CDC message of SMC-R: 44 bytes."""
NVME = bytes.fromhex("0140010001000000") + bytes(56)
"""Submission queue entry of NVMe over Fabrics: read, 64 bytes."""
NFS_RDMA = struct.pack(">IIII", 0x11223344, 1, 32, 0) + bytes(12) + struct.pack(">IIIII", 0x11223344, 0, 2, 100003, 3)
"""RPC-over-RDMA version 1 with an NFS call inline."""
ZEROS = bytes(48)


@pytest.mark.parametrize(
    "payload", [ISER, SMC_R, NVME, NFS_RDMA, ZEROS], ids=["iSER", "SMC-R", "NVMe-oF", "NFS", "zeros"]
)
def test_other_protocols_over_rdma_are_left_alone(payload: bytes, tshark: Tshark, tmp_path: Path) -> None:
    capture = Pcap()
    for psn in range(20):
        roce(capture, payload + psn.to_bytes(4, "big"), psn)
    path = capture.write(tmp_path / "foreign.pcap")
    assert rows(tshark, path, ("frame.number",), "-Y", "rds || rds_part || rds_cm || rds_rdma") == []


def segment(capture: Pcap, payload: bytes, seq: int, port: int) -> None:
    head = struct.pack(">HHIIBBHHH", 40000, port, seq, 1, 0x50, tcp.PSH | tcp.ACK, 65535, 0, 0)
    capture.ip("10.0.0.1", "10.0.0.2", IP_TCP, head + payload)


@pytest.mark.parametrize("payload", [bytes(2000), b"GET / HTTP/1.1\r\n\r\n", Random(1).randbytes(1400)])
def test_other_streams_on_odd_ports_are_left_alone(payload: bytes, tshark: Tshark, tmp_path: Path) -> None:
    capture = Pcap()
    for number in range(10):
        segment(capture, payload, 1 + number * len(payload), 9999)
    path = capture.write(tmp_path / "foreign.pcap")
    assert rows(tshark, path, ("frame.number",), "-Y", "rds || rds_part") == []


# ---- Memory.


COUNTS_WHAT_IS_GIVEN_BACK = """
rds.init = begin_capture
local tap = Listener.new("frame")
function tap.draw()
   collectgarbage()
   local before = collectgarbage("count")
   begin_capture()
   print(before - collectgarbage("count"))
end
"""


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-73"])
def test_payload_of_the_capture_before_is_given_back_when_the_next_one_begins(
    name: str, tshark: Tshark, tmp_path: Path
) -> None:
    path = ROOT / "pcaps" / name / "a.pcap.gz"
    with open_capture(path) as capture:
        payload = sum(message.seen for message in capture)
    plugin = tmp_path / "rds.lua"
    callable_by_us = PLUGIN.read_text().replace("function rds.init()", "function begin_capture()")
    plugin.write_text(callable_by_us + COUNTS_WHAT_IS_GIVEN_BACK)
    kilobytes = float(run(tshark, "-q", "-r", str(path), scripts=[plugin]))
    assert kilobytes * 1024 > payload > 1_000_000


# ---- Statistics.


def test_messages_are_summed_up_by_connection_and_kind(tshark: Tshark) -> None:
    path = next(path for path in PCAPS if path.parent.name == "tcp-congestion-73")
    with open_capture(path) as capture:
        messages = list(capture)
    kinds = Counter(message.kind.label for message in messages)
    sizes = Counter[str]()
    for message in messages:
        sizes[message.kind.label] += message.length
    text = run(tshark, "-q", "-z", "rds", "-r", str(path))
    assert max(map(len, text.splitlines())) <= WINDOW_CHARACTERS
    told = [line.split() for line in text.splitlines() if line.startswith("  ") and "messages" not in line]
    assert {(kind, int(count), int(size)) for kind, count, size, *_ in told} == {
        (kind, kinds[kind], sizes[kind]) for kind in kinds
    }


# ---- Congestion.


def test_what_changed_since_the_last_bitmap_is_marked(tshark: Tshark, tmp_path: Path) -> None:
    script, a, _ = tcp.single_path()
    for ports in ((5000, 6000), (6000, 7000)):
        step = a.data("one", "", 4001, 7000, 0)
        step.header, step.payload = bitmap(*ports)
        script.steps.append(step)
    path = script.write(tmp_path / "bitmaps.pcap")
    fields = ("rds.congested", "rds.congested.set", "rds.congested.cleared")
    assert rows(tshark, path, fields, "-Y", "rds.congested") == [
        ("5000|6000", "5000|6000", ""),
        ("6000|7000", "7000", "5000"),
    ]


# ---- Damage.


def mutated(seed: int) -> tuple[bytes, Frames]:
    """A slice of a real capture, damaged."""
    random = Random(seed)
    _, content = random.choice(sources())
    header, frames = split(content)
    begin = random.randrange(max(1, len(frames) - SLICE_FRAMES))
    part = frames[begin : begin + SLICE_FRAMES]
    random.choice(ORDER_DAMAGE)(part, random)
    for _ in range(random.randint(1, 6) if part else 0):
        at = random.randrange(len(part))
        frame = bytearray(part[at])
        if len(frame) < RECORD_HEADER_BYTES + MIN_FRAME_BYTES:
            continue
        random.choice(FRAME_DAMAGE)(frame, random)
        part[at] = cut_frame(bytes(frame), random) if random.random() < CUT else bytes(frame)
    return header, part


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize("passes", [(), ("-2",)], ids=["one pass", "two passes"])
def test_damaged_captures_give_no_error_of_lua(
    batch: int, passes: tuple[str, ...], tshark: Tshark, tmp_path: Path
) -> None:
    seeds = range(batch, MUTATED, BATCHES)
    path = tmp_path / "damaged.pcap"
    with path.open("wb") as file:
        for number, seed in enumerate(seeds):
            header, frames = mutated(seed)
            if number == 0:
                file.write(header)
            file.write(b"".join(frames))
    # In the second pass Wireshark warns of bugs in other dissectors.
    assert run(tshark, "-r", str(path), *LUA_ERRORS, *passes, quiet=not passes) == ""


CUT_BYTES = 44
"""Of a frame of TCP: in the middle of its header."""


@pytest.mark.parametrize("passes", [(), ("-2",)], ids=["one pass", "two passes"])
def test_frames_on_which_others_give_up_do_not_fill_the_stack_of_lua(
    passes: tuple[str, ...], tshark: Tshark, tmp_path: Path
) -> None:
    """What Wireshark throws where a frame was cut short passes through the watcher, and Lua never learns of it."""
    whole = PCAPS[[path.parent.name for path in PCAPS].index("tcp-basic-73")]
    content = gzip.decompress(whole.read_bytes())
    _, frames = split(content)
    foreign = Pcap()
    for number in range(300):
        segment(foreign, bytes(200), 1 + number * 200, 9999)
    _, others = split(foreign.write(tmp_path / "foreign.pcap").read_bytes())
    ethernet = [record[:8] + struct.pack("<I", CUT_BYTES) + record[12 : 16 + CUT_BYTES] for record in others]
    path = tmp_path / "cut.pcap"
    path.write_bytes(content + b"".join(ethernet))
    command = [tshark.path, "-n", *passes, "-X", f"lua_script:{PLUGIN}", "-r", str(path), "-T", "fields"]
    command += ["-e", "frame.number", "-e", "rds.number", "-e", "_ws.expert.message"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Lua Error" not in done.stdout
    told = [line for line in done.stderr.splitlines() if not line.startswith("Running as user")]
    assert len(told) == (tshark.version < NEWER), "4.4 catches what its dissectors throw"
    assert all("gave up" in line for line in told)
    found = [line.split("\t")[:2] for line in done.stdout.splitlines()]
    assert len(found) == len(frames) + 300
    numbers = {frame: number.replace("|", ",") for frame, number in rows(tshark, whole, ("frame.number", "rds.number"))}
    assert {frame: number for frame, number in found if number} == {frame: n for frame, n in numbers.items() if n}


def test_an_error_of_lua_would_be_seen(tshark: Tshark, tmp_path: Path) -> None:
    script = tmp_path / "faulty.lua"
    script.write_text(
        'local faulty = Proto("faulty", "Faulty")\n'
        'function faulty.dissector() error("on purpose") end\n'
        'DissectorTable.get("tcp.port"):add(9999, faulty)\n'
    )
    capture = Pcap()
    segment(capture, b"abc", 1, 9999)
    path = capture.write(tmp_path / "one.pcap")
    assert run(tshark, "-r", str(path), *LUA_ERRORS, scripts=(script,)).startswith("1\t")


def test_every_source_of_damage_is_a_capture_of_the_same_kind() -> None:
    assert len({gzip.decompress(path.read_bytes())[:24] for path in PCAPS}) == 1
