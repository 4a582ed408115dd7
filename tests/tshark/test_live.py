"""rdstool capture: live, through dumpcap and tshark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdstool.errors import UsageError
from rdstool.tshark.live import LiveCapture, capture_filter
from rdstool.tshark.program import find_tshark
from tests.kit import tcp
from tests.kit.tunnels import in_tunnels
from tests.tshark.running import RDSTOOL, RUN_S, fake, one_line_error, rdstool, run


def test_the_capture_filter_lets_rds_pass_and_nothing_else(tmp_path: Path) -> None:
    text = capture_filter([16385])
    assert "tcp port 16385" in text
    assert "udp port 4791" in text
    assert "ether proto 0x8915" in text
    assert "vlan" in text
    assert "ether" not in capture_filter([1, 2], ethernet=False)
    assert "vlan" not in capture_filter([1, 2], vlan=False)
    assert "4789" not in text
    tunnelled = capture_filter([16385], tunnels=True)
    assert "4789" in tunnelled
    assert "0x8926" in tunnelled


def test_all_interfaces_at_once_are_captured_though_their_filters_know_no_vlan() -> None:
    line = ["unshare", "--net", RDSTOOL, "capture", "-i", "any", "-d", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=RUN_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "0 messages\n")


@pytest.mark.parametrize("tunnels", [(), ("--tunnels",)])
def test_captures_live_shows_messages_and_writes_pcapng(tunnels: tuple[str, ...], tmp_path: Path) -> None:
    """In a network namespace of its own: whole frames of a conversation are sent over a pair of virtual links."""
    conversation = tcp.conversation().write(tmp_path / "conversation.pcap")
    if tunnels:
        conversation.write_bytes(in_tunnels(conversation.read_bytes()))
    script = tmp_path / "live.sh"
    output = tmp_path / "live.pcapng"
    sender = (
        "import socket,struct,sys;d=open(sys.argv[1],'rb').read();s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW);"
        "s.bind(('one',0));p=24\n"
        "while p<len(d):\n n=struct.unpack_from('<8xI',d,p)[0];s.send(d[p+16:p+16+n]);p+=16+n\n"
    )
    (tmp_path / "send.py").write_text(sender)
    frames = run(find_tshark(), "-r", str(conversation), "-T", "fields", "-e", "frame.number").count("\n")
    script.write_text(
        "set -eu\nip link set lo up\nip link add one mtu 9000 type veth peer name two mtu 9000\n"
        "ip link set one up\nip link set two up\n"
        f"'{RDSTOOL}' capture {' '.join(tunnels)} -i two -w '{output}' -c {frames} --json "
        f"> '{tmp_path}/live.json' 2> '{tmp_path}/said' &\n"
        "capture=$!\n"
        # dumpcap writes the head of the file once it listens.
        f"until [ -s '{output}' ]; do kill -0 $capture; done\n"
        f"'{sys.executable}' '{tmp_path}/send.py' '{conversation}'\nwait $capture\n"
    )
    subprocess.run(["unshare", "--net", "sh", str(script)], check=True, timeout=RUN_S)
    live = [json.loads(line) for line in (tmp_path / "live.json").read_text().splitlines()]
    filed = [json.loads(line) for line in rdstool("decode", "--json", str(conversation)).stdout.splitlines()]
    kept = ("kind", "sequence", "length", "sport", "dport", "complete")
    assert [[item[key] for key in kept] for item in live] == [[item[key] for key in kept] for item in filed]
    assert output.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"


def test_no_such_interface_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "never.pcapng"
    assert "there is no such interface" in one_line_error(rdstool("capture", "-i", "nosuch0", "-w", str(path)))
    assert not path.exists()


def test_a_capture_that_cannot_be_written_is_told_with_its_remedy() -> None:
    assert "name a file" in one_line_error(rdstool("capture", "-i", "lo", "-w", "-"))
    told = one_line_error(rdstool("capture", "-i", "lo", "-w", "/proc/none.pcapng"))
    assert told.endswith("/proc/none.pcapng: No such file or directory; name a file in another directory for --write\n")


def test_a_file_that_is_full_ends_a_live_capture_with_one_line(tmp_path: Path) -> None:
    """On a file system of 4 KiB, in a mount namespace of its own, with a dumpcap that has more than that to say."""
    fake(tmp_path / "dumpcap", 'case "$*" in *-d*) exit 0 ;; esac\ncat "$0.pcapng"')
    conversation = tcp.conversation().write(tmp_path / "conversation.pcap")
    subprocess.run(["tshark", "-r", conversation, "-w", tmp_path / "dumpcap.pcapng"], check=True, capture_output=True)
    (tmp_path / "small").mkdir()
    line = (
        f"mount -t tmpfs -o size=4k none '{tmp_path}/small' && "
        f"'{RDSTOOL}' capture -i any -w '{tmp_path}/small/full.pcapng'"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"rdstool: error: {tmp_path}/small/full.pcapng: No space left")
    assert "Traceback" not in done.stderr


def test_no_capture_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "kept.pcapng"
    path.write_text("")
    with pytest.raises(UsageError, match="exists already"):
        LiveCapture("lo", [16385], output=path)
