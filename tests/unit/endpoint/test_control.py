"""A running node shows its state and its traffic to the user who runs it, and to nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import rdstool
from rdstool.endpoint import control, rundir, running, snapshot
from rdstool.endpoint.stack import Stack
from rdstool.errors import TransportError
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.transport.ib.provider import Tap
from rdstool.transport.ib.roce_udp import RoceProvider
from rdstool.validate.validator import validate
from tests.kit.loopback import own_addresses


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the nodes of this test are found."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "none"))
    return tmp_path / "rdstool"


@asynccontextmanager
async def shown(address: str, **options: Any) -> AsyncIterator[rdstool.Node]:
    async with rdstool.Node(address, options=rdstool.NodeOptions(control=True, **options)) as node:
        yield node


def answering(number: int) -> list[running.RunningNode]:
    """So many nodes: one that is too busy to answer is left out, and asked again."""
    while len(nodes := running.running_nodes()) < number:
        pass
    return nodes


async def found(address: str) -> running.RunningNode:
    """The node that has this address, of those of a test that shows one."""
    (node,) = await asyncio.to_thread(answering, 1)
    assert node.matches(address)
    return node


@asynccontextmanager
async def client(place: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the only node."""
    (path,) = place.glob("*.sock")
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_a_node_is_found_by_address_and_by_process_and_is_gone_with_its_end(place: Path) -> None:
    address, other = own_addresses(2)
    async with shown(address), shown(other):
        nodes = await asyncio.to_thread(answering, 2)
        assert [node.addresses for node in nodes] == [(address,), (other,)]
        assert nodes[0].matches(address)
        assert nodes[0].matches(str(os.getpid()))
        assert not nodes[0].matches(other)
    assert await asyncio.to_thread(running.running_nodes) == []
    assert list(place.iterdir()) == []


async def test_a_node_is_not_shown_unless_it_is_asked_to_be(place: Path) -> None:
    async with rdstool.Node(*own_addresses(1)):
        assert not place.exists()


def test_a_node_in_a_namespace_of_users_is_found_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_map = tmp_path / "uid_map"
    user_map.write_text(f"{os.getuid() + 1:10} 0 1\n{os.getuid():10} 4321 2\n")
    monkeypatch.setattr(rundir, "UID_MAP", user_map)
    assert rundir.places()[-1].name == "rdstool-4321"
    monkeypatch.setattr(rundir, "UID_MAP", tmp_path / "not there")
    assert rundir.places()[-1].name == f"rdstool-{os.getuid()}"


async def test_only_the_user_can_enter_the_directory_and_use_the_socket(place: Path) -> None:
    async with shown(*own_addresses(1)):
        (path,) = place.iterdir()
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_directory_that_others_can_enter_is_neither_used_nor_believed(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place.mkdir(mode=0o755)
    async with shown(*own_addresses(1)) as node:
        assert node.socket(4000).getsockname()[1] == 4000
    assert "cannot be seen by 'rdstool info'" in caplog.text
    assert list(place.iterdir()) == []


async def test_what_a_crashed_node_left_behind_is_passed_over_and_removed(place: Path) -> None:
    place.mkdir(mode=0o700)
    gone = place / f"{2**22 + 1}-0.sock"  # above the highest process id of Linux
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(gone))
    (place / "other.sock").write_text("not a socket")
    (address,) = own_addresses(1)
    async with shown(address):
        nodes = await asyncio.to_thread(answering, 1)
        assert [node.addresses for node in nodes] == [(address,)]
        assert not gone.exists()


async def test_its_tables_are_those_of_the_engine() -> None:
    small, large = own_addresses(2)
    async with shown(small) as one, rdstool.Node(large) as other:
        here, there = one.socket(4000), other.socket(4000)
        await here.sendto(b"hello", there.getsockname())
        await there.sendto(b"and back", here.getsockname())
        await there.drain()
        node = await found(small)
        tables = (await asyncio.to_thread(running.ask, node))["sections"]
        assert set(tables) == set(snapshot.SECTIONS)
        assert tables["counters"]["recv_queued"] == 1
        assert tables["sockets"][0]["port"] == 4000
        assert tables["sockets"][0]["receive_bytes"] == len(b"and back")
        assert tables["receive_messages"][0]["peer"] == large
        assert tables["connections"][0]["state"] == "up"
        assert {record["peer_port"] for record in tables["tcp_sockets"]} == {16385}
        some = await asyncio.to_thread(running.ask, node, ["sockets"])
        assert list(some["sections"]) == ["sockets"]


async def test_a_table_of_any_length_has_an_end_and_says_that_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    (address,) = own_addresses(1)
    monkeypatch.setattr(snapshot, "RECORDS", 3)
    async with shown(address) as node:
        for _ in range(3):
            node.socket(0)
        assert snapshot.snapshot(node.engine, ["sockets"], 3)[1] == []
        node.socket(0)
        tables, truncated = snapshot.snapshot(node.engine, ["sockets"], 3)
        assert (len(tables["sockets"]), truncated) == (3, ["sockets"])


def test_the_sockets_of_a_program_without_event_loop_are_shown_too() -> None:
    (address,) = own_addresses(1)
    options = rdstool.NodeOptions(control=True)
    with Stack(options) as stack, rdstool.Socket(stack) as sock:
        sock.bind((address, 4000))
        sock.sendto(b"to myself", (address, 4000))
        (node,) = answering(1)
        tables = running.ask(node)["sections"]
        assert tables["sockets"][0]["receive_bytes"] == len(b"to myself")
    assert running.running_nodes() == []


@pytest.mark.parametrize(
    ("request_line", "complaint"),
    [
        (b"\n", "a request is a JSON object on one line"),
        (b"[" * 4000 + b"\n", "a request is a JSON object on one line"),
        (b"\xff\xfe\n", "a request is a JSON object on one line"),
        (b"[]\n", "request is one of node, info, tap"),
        (b'{"request": ["node"]}\n', "request is one of node, info, tap"),
        (b'{"request": "info", "sections": [[]]}\n', "sections is a list of counters, connections"),
        (b'{"request": "info", "sections": "counters"}\n', "sections is a list of counters, connections"),
        (b"x" * 5000, "a request has 4096 bytes at most"),
    ],
)
async def test_what_is_no_request_gets_an_answer_that_says_so(request_line: bytes, complaint: str, place: Path) -> None:
    async with shown(*own_addresses(1)), client(place) as (reader, writer):
        writer.write(request_line)
        assert json.loads(await reader.readline())["error"].startswith(complaint)


async def test_requests_may_follow_each_other_and_the_last_may_end_the_connection(place: Path) -> None:
    (address,) = own_addresses(1)
    async with shown(address), client(place) as (reader, writer):
        writer.write(b'{"request": "node"}\nnonsense\n{"request": "node"}\n')
        writer.write_eof()
        answers = [json.loads(line) for line in (await reader.read()).splitlines()]
        assert [answer.get("addresses") for answer in answers] == [[address], None, [address]]


async def test_a_client_that_says_nothing_is_sent_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.01)
    async with shown(*own_addresses(1)), client(place) as (reader, writer):
        writer.write(b'{"request": "no')
        assert await reader.read() == b""


async def test_a_client_that_takes_no_answer_is_sent_away(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE_S", 0.05)
    (address,) = own_addresses(1)
    async with shown(address) as node:
        for _ in range(1000):
            node.socket(0)
        (path,) = place.glob("*.sock")
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.setblocking(False)
            await loop.sock_connect(sock, str(path))

            async def ask_on_and_on() -> None:
                while True:
                    await loop.sock_sendall(sock, b'{"request": "info"}\n')

            with pytest.raises(ConnectionError):
                await ask_on_and_on()
        monkeypatch.setattr(control, "PATIENCE_S", 5.0)
        assert (await found(address)).pid == os.getpid()


async def test_only_so_many_clients_are_let_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENTS", 1)
    (address,) = own_addresses(1)
    async with shown(address):
        async with client(place) as (reader, writer):
            writer.write(b'{"request": "node"}\n')
            assert await reader.readline() != b""
            async with client(place) as (refused, _):
                assert await refused.read() == b""
        await asyncio.to_thread(answering, 1)


async def test_frames_are_those_of_the_traffic_from_then_on_for_all_who_ask(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    async with rdstool.Node(large) as other:
        async with shown(small) as one:
            here, there = one.socket(4000), other.socket(4000)
            await here.sendto(b"before", there.getsockname())
            assert await there.recv() == b"before"
            node = await found(small)
            taps = [await asyncio.to_thread(running.tap, node) for _ in range(2)]
            for size in (0, 1, 70_000):
                await here.sendto(bytes(size), there.getsockname())
                await there.recv()
            await there.sendto(b"back", here.getsockname())
            await here.recv()
            reading = [asyncio.create_task(asyncio.to_thread(tap.read)) for tap in taps]
        streams = [await task for task in reading]
    for number, (stream, tap) in enumerate(zip(streams, taps, strict=True)):
        tap.close()
        path = tmp_path / f"{number}.pcapng"
        path.write_bytes(stream)
        with rdstool.open_capture(path) as capture:
            data = [(each.src, each.length) for each in capture if each.kind is MessageKind.DATA]
        assert data == [(small, 0), (small, 1), (small, 70_000), (large, 4)]


async def test_a_connection_that_begins_while_frames_are_read_is_whole(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    async with rdstool.Node(large) as other:
        async with shown(small) as one:
            tap = await asyncio.to_thread(running.tap, await found(small))
            there = other.socket(4000)
            await one.socket(4000).sendto(b"first", there.getsockname())
            await there.recv()
            reading = asyncio.create_task(asyncio.to_thread(tap.read))
        stream = await reading
    tap.close()
    path = tmp_path / "whole.pcapng"
    path.write_bytes(stream)
    with rdstool.open_capture(path) as capture:
        assert [each.length for each in capture if each.kind is MessageKind.DATA] == [5]
    with rdstool.open_capture(path) as capture:
        assert list(validate(capture)) == []


async def test_a_reader_of_frames_that_falls_behind_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "TAP_BYTES", 100_000)
    small, large = own_addresses(2)
    settings = rdstool.Settings(sndbuf=1 << 20, rcvbuf=1 << 20)
    async with shown(small, settings=settings) as one, rdstool.Node(large) as other:
        here, there = one.socket(4000), other.socket(4000)
        tap = await asyncio.to_thread(running.tap, await found(small))
        while "is cut off" not in caplog.text:
            await here.sendto(bytes(50_000), there.getsockname())
            await there.recv()
        assert one.core._recorder is None
        await here.sendto(b"undisturbed", there.getsockname())
        assert await there.recv() == b"undisturbed"
        await asyncio.to_thread(tap.read)
        tap.close()


class Blind(RoceProvider):
    """Sees no packets, as an adapter's driver."""

    def set_tap(self, tap: Tap | None) -> None:
        if tap is not None:
            raise TransportError("no program sees these packets")


async def test_who_asks_for_frames_that_nobody_sees_is_told_so(place: Path) -> None:
    (address,) = own_addresses(1)
    async with shown(address, transport=Transport.IB, provider=Blind), client(place) as (reader, writer):
        for request in ("tap", "node"):
            writer.write(json.dumps({"request": request}).encode() + b"\n")
        assert json.loads(await reader.readline()) == {"error": "no program sees these packets"}
        assert json.loads(await reader.readline())["addresses"] == [address]


async def test_a_recording_that_cannot_be_is_refused(tmp_path: Path) -> None:
    options = rdstool.NodeOptions(transport=Transport.IB, provider=Blind, pcap=tmp_path / "x.pcapng")
    with pytest.raises(TransportError, match="no program sees"):
        async with rdstool.Node(*own_addresses(1), options=options):
            pass
