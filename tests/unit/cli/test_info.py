"""``rdstool info`` on nodes of other processes, and its columns, which are those of rds-info."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdstool.cli.info_tables import TABLES, counters, table_lines
from tests.kit.loopback import own_addresses
from tests.unit.cli.background import Background, background
from tests.unit.cli.running import rdstool


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No node but those of this test is found."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def node() -> Iterator[tuple[str, Background]]:
    """A node that has heard three messages."""
    small, large = own_addresses(2)
    with background("listen", f"{large}:4000") as listening:
        listening.wait_for("listening on")
        assert rdstool("send", f"{large}:4000", "--from", small, "-c", "3").returncode == 0
        yield large, listening


def test_all_sections_are_shown_in_the_order_of_rds_info(node: tuple[str, Background]) -> None:
    shown = rdstool("info")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.findall(r"^\n?(\w.*):$", shown.stdout, re.MULTILINE) == [
        "RDS IB Connections",
        "TCP Connections",
        "Counters",
        "RDS Sockets",
        "RDS Connections",
        "Receive Message Queue",
        "Send Message Queue",
        "Retransmit Message Queue",
    ]
    assert re.search(rf"^ *{re.escape(node[0])}  4000 +0\.0\.0\.0 +0 +106496 +106496 +0$", shown.stdout, re.MULTILINE)
    assert re.search(r"^ +recv_queued +3$", shown.stdout, re.MULTILINE)


def test_connections_over_infiniband_are_shown_as_rds_info_shows_them() -> None:
    small, large = own_addresses(2)
    with background("listen", f"{large}:4000", "--transport", "ib") as listening:
        listening.wait_for("listening on")
        assert rdstool("send", f"{large}:4000", "--from", small, "--transport", "ib", "-m", "x").returncode == 0
        shown = rdstool("info", "-I")
        assert shown.stdout.split()[-6:] == [large, small, "0", "0", f"::ffff:{large}", f"::ffff:{small}"]
        record = json.loads(rdstool("info", "-I", "--json").stdout)
    assert (record["section"], record["local"], record["peer"]) == ("ib_connections", large, small)
    assert (record["max_send_wr"], record["max_recv_wr"], record["version"]) == (256, 1024, "3.1")


def test_a_node_is_chosen_by_address_or_by_process(node: tuple[str, Background]) -> None:
    (other,) = own_addresses(1)
    with background("listen", f"{other}:4000") as listening:
        listening.wait_for("listening on")
        both = rdstool("info", "-k")
        assert f"Node {node[0]} (process {node[1].process.pid}):" in both.stdout
        assert f"Node {other} (process {listening.process.pid}):" in both.stdout
        for name in (other, str(listening.process.pid)):
            one = rdstool("info", "-k", "--node", name)
            assert other in one.stdout
            assert node[0] not in one.stdout
        nobody = rdstool("info", "--node", "192.0.2.1")
        assert nobody.returncode == 2
        assert "no running node of this user has the address or process 192.0.2.1: there are" in nobody.stderr


def test_counters_are_chosen_by_name_and_with_wildcards(node: tuple[str, Background]) -> None:
    shown = rdstool("info", "recv_queued", "tcp_*", "--json")
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {record["section"] for record in records} == {"counters"}
    assert records[0] == {
        "source": "node",
        "pid": node[1].process.pid,
        "addresses": [node[0]],
        "section": "counters",
        "name": "recv_queued",
        "value": 3,
    }
    assert all(record["name"].startswith("tcp_") for record in records[1:])
    wrong = rdstool("info", "tcp_*", "recv_queue")
    assert wrong.returncode == 2
    assert wrong.stderr == "rdstool: error: no counter is called recv_queue: see all with 'rdstool info -c'\n"


def test_json_has_every_path_and_every_field(node: tuple[str, Background]) -> None:
    records = [json.loads(line) for line in rdstool("info", "-n", "-k", "--json").stdout.splitlines()]
    connections = [record for record in records if record["section"] == "connections"]
    assert [record["path"] for record in connections] == list(range(8))
    assert {record["npaths"] for record in connections} == {8}
    (bound,) = (record for record in records if record["section"] == "sockets")
    assert (bound["address"], bound["port"], bound["receive_bytes"]) == (node[0], 4000, 0)


def test_verbose_shows_every_path(node: tuple[str, Background]) -> None:
    assert len(rdstool("info", "-n").stdout.splitlines()) == 4
    told = rdstool("info", "-n", "-v").stdout
    assert [f"path={path}, paths=8" in told for path in range(8)] == [True] * 8


def test_where_nothing_runs_it_says_so() -> None:
    # A host that has the kernel's RDS shows that.
    if any(line.startswith("RDS ") for line in Path("/proc/net/protocols").read_text().splitlines()):
        assert rdstool("info", "-c").returncode == 0
        return
    shown = rdstool("info")
    assert shown.returncode == 2
    assert "no rdstool node of this user runs here, and the kernel's RDS is not loaded" in shown.stderr


def test_kernel_and_node_exclude_each_other() -> None:
    assert rdstool("info", "--kernel", "--node", "127.0.0.1").returncode == 2


# What rds-info of rds-tools 2.0.7 printed on Linux 7.3 and 6.1, beside the captures tcp-congestion-73 and ib-basic-61.
REAL = {
    "connections": (
        {
            "local": "192.168.222.113",
            "peer": "192.168.222.144",
            "tos": 0,
            "transport": "tcp",
            "flags": 4,
            "next_tx": 124,
            "next_rx": 3,
        },
        """
RDS Connections:
      LocalAddr      RemoteAddr  Tos           NextTX           NextRX Flgs
192.168.222.113 192.168.222.144    0              124                3 --C-""",
    ),
    "tcp_sockets": (
        {
            "local": "192.168.222.113",
            "local_port": 32776,
            "peer": "192.168.222.144",
            "peer_port": 16385,
            "header_remaining": 48,
            "data_remaining": 0,
            "last_sent_nxt": 1900897930,
            "last_expected_una": 1900898026,
            "last_seen_una": 1900898026,
        },
        """
TCP Connections:
      LocalAddr LPort      RemoteAddr RPort  HdrRemain DataRemain    SentNxt  ExpectUna    SeenUna
192.168.222.113 32776 192.168.222.144 16385         48          0 1900897930 1900898026 1900898026""",
    ),
    "sockets": (
        {
            "address": "192.168.222.113",
            "port": 2504,
            "peer": "0.0.0.0",  # noqa: S104 - no address
            "peer_port": 0,
            "sndbuf": 4194304,
            "rcvbuf": 16384,
            "inode": 269,
        },
        """
RDS Sockets:
      BoundAddr BPort        ConnAddr CPort     SndBuf     RcvBuf    Inode
192.168.222.113  2504         0.0.0.0     0    4194304      16384      269""",
    ),
    "counters": (
        {"name": "mprds_catchup_tx0_retries", "value": 16},
        """
Counters:
              CounterName            Value
mprds_catchup_tx0_retries               16""",
    ),
    "ib_connections": (
        {
            "local": "192.168.125.115",
            "peer": "192.168.125.234",
            "tos": 0,
            "sl": 0,
            "local_gid": "::ffff:192.168.125.115",
            "peer_gid": "::ffff:192.168.125.234",
        },
        """
RDS IB Connections:
      LocalAddr      RemoteAddr  Tos  SL                         LocalDev                        RemoteDev
192.168.125.115 192.168.125.234    0   0           ::ffff:192.168.125.115           ::ffff:192.168.125.234""",
    ),
}


@pytest.mark.parametrize("section", REAL)
def test_a_kernels_records_look_as_rds_info_printed_them(section: str) -> None:
    record, printed = REAL[section]
    assert table_lines(section, [record], verbose=False) == printed.splitlines()


def test_long_addresses_widen_their_columns_and_mapped_ones_do_not() -> None:
    record = {"address": "fd00:1234:5678:9abc::1", "port": 1, "peer": "::ffff:10.0.0.1", "peer_port": 2}
    heading, line = table_lines("sockets", [record], verbose=False)[-2:]
    assert heading.index("BPort") == len("fd00:1234:5678:9abc::1 ")
    assert line.startswith("fd00:1234:5678:9abc::1     1               10.0.0.1     2")


def test_a_nodes_position_in_tcp_is_shown_as_the_32_bits_that_a_kernel_has() -> None:
    record = {"local": "10.0.0.1", "peer": "10.0.0.2", "sent": 2**32 + 5, "acked": 2**32 + 1}
    assert table_lines("tcp_sockets", [record], verbose=False)[-1].split()[-3:] == ["5", "5", "1"]


@pytest.mark.parametrize(("flags", "letters"), [(0, "----"), (1, "s---"), (2, "-c--"), (5, "s-C-"), (15, "scCE")])
def test_flags_are_letters(flags: int, letters: str) -> None:
    record = {"local": "10.0.0.1", "peer": "10.0.0.2", "flags": flags}
    assert table_lines("connections", [record], verbose=False)[-1].endswith(f" {letters}")


def test_records_of_another_version_may_lack_anything() -> None:
    for section in TABLES:
        assert len(table_lines(section, [{}], verbose=True)) == 4


def test_counters_keep_their_order() -> None:
    values = {"recv_ping": 1, "send_pong": 2, "recv_queued": 3}
    assert [record["name"] for record in counters(values, ["recv_*"])] == ["recv_ping", "recv_queued"]
