"""Small parts: addresses, source ports, timers, settings, counters, what remains of congestion."""

from __future__ import annotations

import pytest

from rdstool.protocol.addresses import canonical, is_host, lacks_scope, rank, same_but_for_scope, same_family, scope
from rdstool.protocol.config import SYSCTLS, Settings
from rdstool.protocol.congestion import LocalMap, PeerMap, crossing, monitor_bit
from rdstool.protocol.counters import Counters
from rdstool.protocol.source_ports import path_of_source_port, source_port
from rdstool.protocol.timers import Timers


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [("10.0.0.1", "10.0.0.2"), ("9.255.255.255", "10.0.0.0"), ("::1", "10.0.0.1"), ("255.0.0.1", "fd00::1")],
)
def test_addresses_are_compared_as_128_bit_numbers(smaller: str, larger: str) -> None:
    assert rank(smaller) < rank(larger)


def test_addresses_have_one_form() -> None:
    assert canonical("::ffff:10.0.0.1") == "10.0.0.1"
    assert canonical("FD00:0:0::1") == "fd00::1"
    assert same_family("10.0.0.1", "::ffff:10.0.0.2")
    assert not same_family("10.0.0.1", "::1")


def test_link_local_addresses_alone_have_a_scope() -> None:
    assert canonical("FE80::0:1%eth0") == "fe80::1%eth0"
    assert (scope("fe80::1%eth0"), scope("fe80::1"), scope("10.0.0.1")) == ("eth0", "", "")
    assert canonical("fd00::1%eth0") == "fd00::1"
    assert canonical("::1%lo") == "::1"
    assert same_but_for_scope("fe80::1%eth0", "fe80::1")
    assert not same_but_for_scope("fe80::1%eth0", "fe80::2%eth0")
    assert lacks_scope("fe80::1")
    assert not lacks_scope("fe80::1%eth0")
    assert not lacks_scope("169.254.0.1")
    assert not lacks_scope("fd00::1")


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.2", "::1", "fe80::1"])
def test_an_address_of_one_host_is_known_as_such(address: str) -> None:
    assert is_host(address)


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "ff02::1", "::"])  # noqa: S104
def test_an_address_of_none_or_of_many_is_no_hosts(address: str) -> None:
    assert not is_host(address)


def test_source_ports_are_those_seen_of_a_kernel() -> None:
    first = source_port(0, 1, 32768, 60999)
    assert first == 32776
    assert [source_port(path, 0, 32769, 60999) % 8 for path in range(8)] == list(range(8))


@pytest.mark.parametrize("npaths", range(1, 9))
def test_a_source_port_tells_the_path_modulo_8_and_modulo_the_paths(npaths: int) -> None:
    for path in range(npaths):
        ports = {source_port(path, attempt, 32768, 60999, npaths) for attempt in range(1000)}
        assert {(port % 8, port % npaths, path_of_source_port(port, npaths)) for port in ports} == {(path,) * 3}
        assert path_of_source_port(32776 + path, npaths) == path, "as kernels dial"


def test_source_ports_stay_in_their_range() -> None:
    ports = {source_port(path, attempt, 1001, 1040) for path in range(8) for attempt in range(100)}
    assert (min(ports), max(ports)) == (1008, 1039)
    with pytest.raises(ValueError, match="no room for 8 paths"):
        source_port(0, 0, 1001, 1010)
    with pytest.raises(ValueError, match="no room for 7 paths"):
        source_port(0, 0, 1001, 1050, 7)


def test_timers_run_in_order_and_once() -> None:
    timers, done = Timers(), []
    timers.at(2.0, lambda now: done.append(("b", now)))
    timers.at(1.0, lambda now: done.append(("a", now)))
    timers.at(2.0, lambda now: done.append(("c", now)))
    gone = timers.at(0.5, lambda now: done.append(("never", now)))
    gone.cancel()
    assert timers.next() == 1.0
    timers.run(2.5)
    assert done == [("a", 2.5), ("b", 2.5), ("c", 2.5)]
    assert timers.next() is None


def test_cancelled_timers_do_not_pile_up_behind_one_that_stands() -> None:
    timers = Timers()
    timers.at(1.0, lambda _now: None)
    for number in range(10_000):
        timers.at(2.0 + number, lambda _now: None).cancel()
        assert timers.next() == 1.0
    assert len(timers) < 200


@pytest.mark.parametrize(
    "wrong", [{"paths": 0}, {"paths": 9}, {"reconnect_min_delay_ms": 0}, {"reconnect_min_delay_ms": 2000}]
)
def test_settings_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"paths|delays"):
        Settings(**wrong)  # type: ignore[arg-type]


def test_sysctls_have_the_kernels_defaults() -> None:
    settings = Settings()
    assert {name: getattr(settings, field) for name, field in SYSCTLS.items()} == {
        "net.rds.reconnect_min_delay_ms": 1,
        "net.rds.reconnect_max_delay_ms": 1000,
        "net.rds.max_unacked_packets": 8,
        "net.rds.max_unacked_bytes": 16777216,
        "net.rds.ping_enable": True,
        "net.rds.tcp.rds_tcp_sndbuf": 0,
        "net.rds.tcp.rds_tcp_rcvbuf": 0,
        "net.rds.ib.max_send_wr": 256,
        "net.rds.ib.max_recv_wr": 1024,
        "net.rds.ib.max_unsignaled_wr": 16,
        "net.rds.ib.flow_control": False,
    }


def test_counters_have_the_kernels_names_in_the_kernels_order() -> None:
    names = list(Counters().as_dict())
    assert names[0] == "conn_reset"
    assert names[36:38] == ["mprds_catchup_tx0_retries", "ib_connect_raced"]
    assert names[60:62] == ["ib_atomic_fadd", "tcp_data_ready_calls"]
    assert names[65] == "tcp_listen_closed_stale"


@pytest.mark.parametrize(
    ("queued", "congested", "change"),
    [(100, False, None), (101, False, True), (101, True, None), (50, True, None), (49, True, False), (0, False, None)],
)
def test_marks_of_a_receive_buffer_of_100(queued: int, congested: bool, change: bool | None) -> None:
    assert crossing(queued, 100, congested=congested) is change


def test_port_9_is_bit_1_of_byte_1() -> None:
    own, peer = LocalMap(), PeerMap()
    own.mark(9, congested=True)
    assert own.payload[:3] == b"\x00\x02\x00"
    peer.update(own.payload)
    assert [peer.congested(port) for port in (8, 9, 10)] == [False, True, False]
    own.mark(9, congested=False)
    peer.update(own.payload)
    assert peer.bits is None


def test_the_monitor_has_64_bits_for_all_ports() -> None:
    assert monitor_bit(4000) == monitor_bit(4064) == 1 << 32
