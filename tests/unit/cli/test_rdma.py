"""Commands over InfiniBand: datagrams, and ``rdstool rdma`` on memory that ``rdstool listen --offer`` offers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.loopback import own_addresses
from tests.unit.cli.background import Background, background
from tests.unit.cli.running import rdstool, rdstool_here


class Offer:
    """A listening command that offers 64 bytes."""

    def __init__(self, near: str, far: str, running: Background, folder: Path) -> None:
        self.near, self.far, self.running, self.folder = near, far, running, folder
        found = re.search(r"64 bytes of memory at \S+, cookie (0x[0-9a-f]+)", running.wait_for("cookie"))
        assert found
        self.cookie = found[1]

    def rdma(self, kind: str, *arguments: str, cookie: str | None = None) -> tuple[int, str, str]:
        """Status, results and notes of ``rdstool rdma``."""
        done = rdstool("rdma", kind, self.far, cookie or self.cookie, *arguments, "--from", self.near)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def offer(tmp_path: Path) -> Iterator[Offer]:
    near, far = own_addresses(2)
    folder = tmp_path / "kept"
    with background("listen", f"{far}:4000", "--transport", "ib", "--offer", "64", "-w", folder) as running:
        yield Offer(near, far, running, folder)


def test_datagrams_go_over_infiniband_where_both_sides_say_so(tmp_path: Path) -> None:
    near, far = own_addresses(2)
    file = tmp_path / "heard.pcapng"
    with background("listen", f"{far}:4000", "--transport", "ib", "-c", "50", "--pcap", file) as listening:
        listening.wait_for("listening")
        sent = rdstool("send", f"{far}:4000", "--from", near, "--transport", "ib", "-c", "50", "-s", "0-20K")
        assert (sent.returncode, sent.stderr) == (0, "")
        assert listening.end().returncode == 0
    decoded = rdstool_here("decode", file, "-Y", "rds.kind == data", "--json").stdout.splitlines()
    assert len(decoded) == 50
    assert all('"transport":"ib"' in line.replace(" ", "") for line in decoded)
    assert rdstool_here("validate", file).returncode == 0


def test_a_node_answers_pings_over_infiniband() -> None:
    near, far = own_addresses(2)
    with background("listen", f"{far}:4000", "--transport", "ib") as listening:
        listening.wait_for("listening")
        pinged = rdstool("ping", far, "-I", near, "-c", "3", "-i", "1ms", "--transport", "ib")
    assert pinged.returncode == 0


def test_memory_is_written_read_counted_in_and_kept(offer: Offer, tmp_path: Path) -> None:
    file = tmp_path / "note"
    file.write_bytes(b"a note for the peer")
    status, _, told = offer.rdma("write", str(file), "--offset", "16")
    assert (status, told.strip()) == (0, f"19 bytes written to {offer.far} at 16")
    assert offer.rdma("read", "19", "--offset", "16") == (0, "a note for the peer", "")
    assert offer.rdma("atomic", "--add", "5") == (0, "0\n", "")
    assert offer.rdma("atomic", "--add", "-1") == (0, "5\n", "")
    assert offer.rdma("atomic", "--compare", "0x4", "--swap", "77") == (0, "4\n", "")
    offer.running.interrupt()
    offer.running.end()
    kept = (offer.folder / "memory.bin").read_bytes()
    assert kept == (77).to_bytes(8, "little") + bytes(8) + b"a note for the peer" + bytes(29)


def test_what_the_peer_refuses_is_a_problem(offer: Offer) -> None:
    for done in (offer.rdma("read", "65"), offer.rdma("read", "8", cookie="0x1")):
        status, out, told = done
        assert (status, out) == (1, "")
        assert "a work request failed (remote access error)" in told
        assert "the peer's memory refused" in told


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("rdma", "read", "127.0.0.1", "1", "1048577"), "1048577 is not in the range 1<=x<=1048576"),
        (
            ("rdma", "write", "127.0.0.1", "1", "/dev/zero"),
            "/dev/zero: longer than 1048576 bytes, the most that one RDMA moves",
        ),
        (
            ("rdma", "atomic", "127.0.0.1", "1", "--add", "0x10000000000000000"),
            "--add: '0x10000000000000000' is not a number",
        ),
        (
            ("rdma", "atomic", "127.0.0.1", "1", "--compare", "1", "--swap", "x"),
            "--swap: 'x' is not a number of 64 bits",
        ),
        (("rdma", "read", "127.0.0.1", "what", "8"), "is not a cookie"),
        (("rdma", "atomic", "127.0.0.1", "0x1"), "give either --add"),
        (("rdma", "atomic", "127.0.0.1", "0x1", "--compare", "1"), "give either --add"),
        (("rdma", "write", "127.0.0.1", "0x1", "no-such-file"), "no-such-file"),
        (("listen", "127.0.0.1:4000", "--offer", "64"), "--offer needs --transport ib"),
        (("listen", "127.0.0.1:4000", "--transport", "ib", "--offer", "2M"), "RDS has room for"),
        (("listen", "127.0.0.1:4000", "--transport", "smoke"), "--transport smoke is not known"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], complaint: str) -> None:
    done = rdstool_here(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_masks_leave_the_other_bits_of_a_number_alone(offer: Offer) -> None:
    assert offer.rdma("atomic", "--add", "0xff01")[:2] == (0, "0\n")
    only = "--compare-mask", "0xff", "--swap-mask", "0xff"
    assert offer.rdma("atomic", "--compare", "1", "--swap", "128", *only)[:2] == (0, "65281\n")
    assert offer.rdma("atomic", "--add", "128", "--nocarry-mask", "0x80")[:2] == (0, "65408\n")
    assert offer.rdma("atomic", "--add", "0")[:2] == (0, "65280\n")
    status, _, told = offer.rdma("atomic", "--add", "0", "--nocarry-mask", "x")
    assert (status, "'x' is not a mask" in told) == (2, True)
