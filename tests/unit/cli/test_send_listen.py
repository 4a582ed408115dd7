"""``rdstool send`` and ``rdstool listen``, as two people would use them in two shells."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

import rdstool as rdstool_api
from rdstool.cli.echo import Echo
from rdstool.cli.listen import keep, preview
from rdstool.cli.payloads import Sizes, made_up, sizes
from rdstool.cli.places import place
from rdstool.endpoint.constants import MSG_PEEK
from rdstool.errors import UsageError
from tests.kit.loopback import own_addresses
from tests.unit.cli.background import background
from tests.unit.cli.running import COMMAND, TIMEOUT_S, rdstool, rdstool_here


def test_a_text_arrives_and_both_sides_say_so() -> None:
    small, large = own_addresses(2)
    with background("listen", f"{large}:4000", "--count", "1") as listening:
        listening.wait_for(f"listening on {large}:4000")
        sent = rdstool("send", f"{large}:4000", "--from", f"{small}:5000", "-m", "hello")
        heard = listening.end()
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.startswith(f"{large}:4000: 1 message, 5 bytes sent from {small}:5000; 1 acknowledged in ")
    assert heard.returncode == 0
    assert heard.stdout.endswith(f'{small}:5000 > 4000  5 bytes  "hello"\n')
    assert heard.stderr == "1 message, 5 bytes received\n"


@pytest.mark.parametrize(
    ("form", "told"), [([], ' > {}:4000  1 byte  "x"'), (["--json"], '"destination": "{}", "dport": 4000, ')]
)
def test_a_listener_on_several_addresses_tells_which_one_a_message_came_to(form: list[str], told: str) -> None:
    small, large, other = own_addresses(3)
    with background("listen", f"{large}:4000", f"{other}:4000", "--count", "1", *form) as listening:
        listening.wait_for(f"listening on {other}:4000")
        assert rdstool("send", f"{other}:4000", "--from", small, "-m", "x").returncode == 0
        heard = listening.end()
    assert told.format(other) in heard.stdout


def test_a_thousand_messages_of_eight_sockets_arrive_with_their_digests(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    pcap = tmp_path / "heard.pcapng"
    with background("listen", f"{small}:4000", "--count", "1000", "--json", "--pcap", pcap) as listening:
        listening.wait_for("listening")
        sent = rdstool(
            "send", f"{small}:4000", "--from", large, "-c", "1000", "-s", "0-20K", "--sockets", "8", "--json"
        )
        heard = listening.end()
    arrivals = [json.loads(line) for line in heard.stdout.splitlines()]
    expected = [hashlib.sha256(data).hexdigest() for data in made_up(1000, sizes("0-20K", "uniform"), "counter", 0)]
    assert sorted(each["sha256"] for each in arrivals) == sorted(expected)
    assert len({each["sport"] for each in arrivals}) == 8
    told = json.loads(sent.stdout)
    assert (told["source"], told["sockets"], told["acknowledged"]) == (large, 8, 1000)
    assert rdstool_here("validate", pcap).returncode == 0
    decoded = rdstool_here("decode", pcap, "-Y", "rds.kind == data", "--json").stdout.splitlines()
    assert len(decoded) == 1000


def test_each_line_of_standard_input_is_a_message() -> None:
    small, large = own_addresses(2)
    with background("listen", f"{large}:7", "--count", "3", "--json") as listening:
        listening.wait_for("listening")
        sent = rdstool("send", f"{large}:7", "--from", small, stdin=b"one\n\nthree")
        lengths = [json.loads(line)["length"] for line in listening.end().stdout.splitlines()]
    assert sent.returncode == 0
    assert lengths == [3, 0, 5]


def test_standard_input_may_be_empty(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    (tmp_path / "empty").touch()
    with background("listen", large, "-q") as listening:
        listening.wait_for("listening")
        for nothing in (Path("/dev/null"), tmp_path / "empty"):
            with nothing.open("rb") as stdin:
                arguments = [*COMMAND, "send", large, "--from", small]
                sent = subprocess.run(arguments, stdin=stdin, capture_output=True, timeout=TIMEOUT_S, check=False)
            assert (sent.returncode, sent.stderr) == (0, b"")
            assert sent.stdout.startswith(b"%s:4000: 0 messages, 0 bytes sent" % large.encode())


def test_a_text_may_have_any_bytes() -> None:
    small, large = own_addresses(2)
    with background("listen", large, "--count", "1", "--json") as listening:
        listening.wait_for("listening")
        command = [*map(os.fsencode, [*COMMAND, "send", large, "--from", small, "-m"]), b"\xff\x80"]
        sent = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        heard = json.loads(listening.end().stdout)
    assert (sent.returncode, sent.stderr) == (0, b"")
    assert heard["sha256"] == hashlib.sha256(b"\xff\x80").hexdigest()


def test_files_are_sent_whole_and_written_whole(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    original = tmp_path / "original"
    original.write_bytes(bytes(range(256)) * 4096)
    with background("listen", large, "--count", "1", "-q", "--write", tmp_path / "got") as listening:
        listening.wait_for("listening")
        sent = rdstool("send", large, "--from", small, "-f", original)
        listening.end()
    assert sent.returncode == 0
    (written,) = (tmp_path / "got").iterdir()
    assert written.read_bytes() == original.read_bytes()


def test_messages_to_two_own_addresses_are_told_apart_by_the_names_of_their_files(tmp_path: Path) -> None:
    small, one, other = own_addresses(3)
    with background("listen", one, other, "--count", "2", "-q", "--write", tmp_path) as listening:
        listening.wait_for(f"listening on {other}")
        for number, own in enumerate((one, other)):
            assert rdstool("send", own, "--from", f"{small}:5000", "-m", f"message {number}").returncode == 0
        listening.end()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"000001-{small}-5000-{one}-4000.bin": "message 0",
        f"000002-{small}-5000-{other}-4000.bin": "message 1",
    }


def test_two_listeners_write_into_one_directory(tmp_path: Path) -> None:
    small, one, other = own_addresses(3)
    with (
        background("listen", one, "--count", "1", "--write", tmp_path) as first,
        background("listen", other, "--count", "1", "--write", tmp_path) as second,
    ):
        first.wait_for("listening")
        second.wait_for("listening")
        sent = rdstool("send", one, other, "--from", f"{small}:5000", "-m", "to both")
        ended = [each.end().returncode for each in (first, second)]
    assert (sent.returncode, ended) == (0, [0, 0])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["to both", "to both"]


def test_memory_that_could_not_be_kept_at_the_end_is_not_offered(tmp_path: Path) -> None:
    (own,) = own_addresses(1)
    kept = tmp_path / "memory.bin"
    kept.write_bytes(b"of another run")
    done = rdstool_here("listen", own, "--transport", "ib", "--offer", "64", "--write", tmp_path, "--timeout", "1ms")
    told = f"rdstool: error: {kept} exists already and is not overwritten: name another directory\n"
    assert (done.returncode, done.stderr) == (2, told)
    assert kept.read_bytes() == b"of another run"


def test_a_second_command_on_an_address_is_told_who_has_it() -> None:
    small, large = own_addresses(2)
    with background("listen", f"{small}:4000", "-q") as listening:
        listening.wait_for("listening")
        refused = rdstool("send", large, "--from", small, "-m", "x")
    assert refused.returncode == 2
    assert f"{small} speaks RDS already" in refused.stderr


def test_a_ping_is_acknowledged() -> None:
    small, large = own_addresses(2)
    with background("listen", large, "-q") as listening:
        listening.wait_for("listening")
        assert rdstool("send", f"{large}:0", "--from", small, "-m", "").returncode == 0


def test_ctrl_c_ends_a_listener_with_its_summary_and_a_whole_file(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    pcap = tmp_path / "x.pcapng"
    with background("listen", large, "--pcap", pcap) as listening:
        listening.wait_for("listening")
        assert rdstool("send", large, "--from", small, "-m", "one").returncode == 0
        listening.interrupt()
        ended = listening.end()
    assert ended.returncode == 130
    assert "1 message, 3 bytes received" in ended.stderr
    assert rdstool_here("validate", pcap).returncode == 0


@pytest.mark.usefixtures("hung_up")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_is_closed_ends_a_listener_as_ctrl_c_does(number: signal.Signals, tmp_path: Path) -> None:
    (own,) = own_addresses(1)
    with background("listen", own, "--pcap", tmp_path / "heard.pcapng") as listening:
        listening.wait_for("listening")
        listening.process.send_signal(number)
        heard = listening.end()
    assert (heard.returncode, heard.stderr) == (130, "0 messages, 0 bytes received\n")


def test_a_message_for_which_a_disk_has_no_room_leaves_no_part_of_itself(tmp_path: Path) -> None:
    kept = tmp_path / "message.bin"
    most, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            keep(kept, bytes(1001))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    assert caught.value.filename == str(kept)
    assert not kept.exists()


def test_a_recording_that_is_not_complete_is_told_at_the_end_and_by_the_status() -> None:
    small, large = own_addresses(2)
    with background("listen", large, "--count", "1", "--pcap", "/dev/full") as listening:
        listening.wait_for("listening")
        sent = rdstool("send", large, "--from", small, "-m", "hello", "--pcap", "/dev/full")
        heard = listening.end()
    complaint = "rdstool: error: /dev/full: the recording is not complete: No space left on device\n"
    assert (sent.returncode, heard.returncode) == (1, 1)
    assert "1 message, 5 bytes sent" in sent.stdout
    assert sent.stderr.endswith(complaint)
    assert '"hello"' in heard.stdout
    assert heard.stderr.endswith(complaint + "1 message, 5 bytes received\n")


def test_nobody_there_is_told_and_given_up_in_time() -> None:
    small, large = own_addresses(2)
    done = rdstool("send", large, "--from", small, "-m", "x", "--timeout", "0.3")
    assert done.returncode == 1
    assert f"{large} cannot be reached (Connection refused), attempt 1; still trying" in done.stderr
    assert "gave up after 0.3 s" in done.stderr
    assert "0 acknowledged" in done.stdout


SEND_BUFFERS = 6_000_000
"""Bytes that a send buffer has no room for."""


def send_until_a_line_is_done(*arguments: str, stdin: bytes = b"") -> tuple[str, subprocess.CompletedProcess[str]]:
    """Send till the first destination is done, then press Ctrl-C. Gives that one's line, and the rest."""
    pipe = subprocess.PIPE
    command = [*COMMAND, "send", *arguments, "--timeout", str(TIMEOUT_S)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as sending:
        try:
            assert sending.stdin is not None
            assert sending.stdout is not None
            sending.stdin.write(stdin)
            sending.stdin.close()
            sending.stdin = None
            first = sending.stdout.readline().decode()
            sending.send_signal(signal.SIGINT)
            out, err = sending.communicate(timeout=TIMEOUT_S)
        finally:
            sending.kill()
    return first, subprocess.CompletedProcess(arguments, sending.returncode, out.decode(), err.decode())


def test_a_destination_that_is_not_there_holds_up_no_other() -> None:
    here, dead, living = own_addresses(3)
    with background("listen", living, "-q") as listening:
        listening.wait_for("listening")
        made = ["--count", "6000", "--size", "1000"]
        first, rest = send_until_a_line_is_done(dead, living, "--from", here, *made)
        listening.interrupt()
        heard = listening.end()
    assert first.startswith(f"{living}:4000: 6000 messages, {SEND_BUFFERS} bytes sent")
    assert "; 6000 acknowledged in " in first
    assert rest.returncode == 130
    assert rest.stdout.startswith(f"{dead}:4000: ")
    assert "; 0 acknowledged in " in rest.stdout
    assert f"{dead} cannot be reached" in rest.stderr
    assert f"6000 messages, {SEND_BUFFERS} bytes received" in heard.stderr


def test_one_port_sends_to_several_and_tells_when_each_of_them_has_all() -> None:
    here, dead, living, other = own_addresses(4)
    with background("listen", living, "-q") as one, background("listen", other, "-q") as two:
        for listening in (one, two):
            listening.wait_for("listening")
        both = rdstool("send", living, other, "--from", f"{here}:5000", "-c", "3000", "--timeout", "30")
        first, rest = send_until_a_line_is_done(dead, living, "--from", f"{here}:5000", "-c", "3000")
    assert both.returncode == 0
    assert both.stdout.count(f"sent from {here}:5000; 3000 acknowledged in ") == 2
    assert first.startswith(f"{living}:4000: 3000 messages, 192000 bytes sent from {here}:5000; 3000 acknowledged in ")
    assert "; 0 acknowledged in " in rest.stdout


def test_nor_does_it_hold_up_standard_input() -> None:
    here, dead, living = own_addresses(3)
    with background("listen", living, "-q") as listening:
        listening.wait_for("listening")
        lines = (b"x" * 999 + b"\n") * 6000
        first, rest = send_until_a_line_is_done(dead, living, "--from", here, stdin=lines)
    assert first.startswith(f"{living}:4000: 6000 messages, {6000 * 999} bytes sent")
    assert rest.returncode == 130


def test_messages_that_were_not_sent_in_time_are_a_problem() -> None:
    small, large = own_addresses(2)
    with background("listen", large, "-q") as listening:
        listening.wait_for("listening")
        sent = rdstool("send", large, "--from", small, "-c", "2", "--rate", "0.001", "--timeout", "1")
    assert "1 message, 64 bytes sent" in sent.stdout
    assert sent.returncode == 1


def test_a_message_is_kept_beside_that_of_an_earlier_run(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    for text in ("first", "second", "third"):
        with background("listen", large, "--count", "1", "--write", tmp_path) as listening:
            listening.wait_for("listening")
            rdstool("send", large, "--from", f"{small}:5000", "-m", text, "--timeout", "10")
            assert listening.end().returncode == 0
    name = f"000001-{small}-5000-{large}-4000"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{name}.bin": "first",
        f"{name}-2.bin": "second",
        f"{name}-3.bin": "third",
    }


def test_a_file_that_cannot_be_written_ends_a_listener_with_the_reason(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    kept = tmp_path / "kept"
    with background("listen", large, "--write", kept) as listening:
        listening.wait_for("listening")
        kept.rmdir()
        rdstool("send", large, "--from", f"{small}:5000", "-m", "x", "--timeout", "10")
        ended = listening.end()
    assert ended.returncode == 2
    assert ended.stderr.startswith("rdstool: error: ")
    assert ended.stderr.count("\n") == 1
    assert str(kept / f"000001-{small}-5000-{large}-4000.bin") in ended.stderr


def test_a_listener_ends_quietly_when_nobody_reads_what_it_prints() -> None:
    small, large = own_addresses(2)
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, "listen", large], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as listening:
        try:
            assert listening.stdout is not None
            assert listening.stderr is not None
            assert b"listening" in listening.stderr.readline()
            listening.stdout.close()
            listening.stdout = None
            rdstool("send", large, "--from", small, "-m", "x", "--timeout", "10")
            _, err = listening.communicate(timeout=TIMEOUT_S)
        finally:
            listening.kill()
    assert (listening.returncode, err) == (0, b"")


def test_a_message_that_the_send_buffer_cannot_hold_is_refused_with_its_name() -> None:
    small, large = own_addresses(2)
    done = rdstool("send", large, "--from", small, "-c", "1", "-s", "2K", "--sndbuf", "1000")
    assert done.returncode == 2
    complaint = "a message of 2048 bytes is longer than the socket's send buffer, 1000 bytes (EMSGSIZE)\n"
    assert done.stderr.endswith(complaint)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "127.0.0.1:70000", "-m", "x"], "'70000' in '127.0.0.1:70000' is not a port: they are 0 to 65535"),
        (["send", "[::1", "-m", "x"], "'[::1' is not an address: write [ADDRESS]:PORT"),
        (["send", "127.0.0.1", "-c", "1", "-s", "2M"], "--size 2M: write N or MIN-MAX, 1048576 at most"),
        (["send", "127.0.0.1", "-c", "1", "--pattern", "x"], "--pattern x is not known"),
        (["send", "127.0.0.1", "-m", "x", "-c", "3"], "--count is for made-up messages"),
        (["send", "127.0.0.1", "-m", "x", "--profile", "x"], "--profile x is not known"),
        (["send", "127.0.0.1", "-m", "x", "--set", "net.rds.x=1"], "--set net.rds.x=1: write NAME=VALUE with one of"),
        (["send", "127.0.0.1", "-m", "x", "--set", "net.rds.ping_enable=no"], "'no' is not a number"),
        (["send", "127.0.0.1", "-m", "x", "--set", "ping_enable=no"], "'no' is not a number"),
        (["send", "127.0.0.1", "--from", "127.0.0.1:5", "--sockets", "2"], "only one socket can have port 5"),
        (["send", "127.0.0.1", "-m", "x", "--pcap", "-"], "name a file, or a FIFO"),
        (["send", "0.0.0.0", "-m", "x"], "0.0.0.0 is not the address of one host"),  # noqa: S104
        (["send", "255.255.255.255", "-m", "x"], "255.255.255.255 is not the address of one host"),
        (["send", "::1", "--from", "127.0.0.1"], "cannot send from 127.0.0.1 to ::1: one is IPv4, the other IPv6"),
        (["listen", "192.0.2.1"], "192.0.2.1 is not an address of this machine"),
        (["listen", "0.0.0.0"], "0.0.0.0 is not the address of one host"),  # noqa: S104
        (["listen", "127.213.1.1:1"], "port 1 belongs to the handshake"),
        (["listen", "127.0.0.1", "--write", "/dev/null"], "--write /dev/null: it is not a directory"),
        (["listen", "127.0.0.1", "--raw", "--json"], "--raw writes payloads to standard output"),
        (["listen", "127.0.0.1", "--quiet", "--json"], "--quiet shows no messages: leave it out, or --json"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(arguments: list[str], said: str) -> None:
    done = rdstool_here(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_what_reads_as_an_ipv6_address_is_one_and_a_port_at_its_end_is_hinted_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert place("fd00::1:4000") == ("fd00::1:4000", 4000)
    hint = "fd00::1:4000 is taken for an address: for port 4000, write [fd00::1]:4000"
    assert hint in capsys.readouterr().err
    assert place("[fd00::1:4000]") == ("fd00::1:4000", 4000)
    assert place("fd00::1") == ("fd00::1", 4000)
    assert not capsys.readouterr().err


def test_addresses_are_read_in_all_their_forms() -> None:
    assert place("10.0.0.1") == ("10.0.0.1", 4000)
    assert place("10.0.0.1:0") == ("10.0.0.1", 0)
    assert place("fd00::1") == ("fd00::1", 4000)
    assert place("[fd00::1]:5") == ("fd00::1", 5)
    assert place("[fd00::1:5]") == ("fd00::1:5", 4000)
    assert place("fd00::1:face") == ("fd00::1:face", 4000)
    assert place("fd00:0:0:0:0:0:1:5") == ("fd00::1:5", 4000)
    assert str(place("[fd00::1]:5")) == "[fd00::1]:5"
    with pytest.raises(UsageError, match="neither an address nor a known name"):
        place("no such host")


@pytest.mark.parametrize("distribution", ["uniform", "log", "exponential"])
def test_sizes_stay_within_their_bounds_and_repeat_with_the_seed(distribution: str) -> None:
    wanted = Sizes(3, 5000, distribution)
    drawn = [len(data) for data in made_up(500, wanted, "zeros", 7)]
    assert all(3 <= size <= 5000 for size in drawn)
    assert len(set(drawn)) > 100
    assert drawn == [len(data) for data in made_up(500, wanted, "zeros", 7)]


def test_previews_show_text_as_text_and_bytes_as_digits() -> None:
    assert preview(b"") == ""
    assert preview("grüße".encode()) == '"grüße"'
    assert preview(("ü" * 40).encode()) == f'"{"ü" * 30}" …'
    assert preview(("x" + "ü" * 40).encode()) == f'"x{"ü" * 29}" …'
    assert preview(b"\x00\xff") == "00ff"
    assert preview(b"a\nb") == "610a62"


async def test_an_echo_comes_back_to_where_it_was_sent_from() -> None:
    small, large = own_addresses(2)
    with background("listen", f"{large}:4000", "--echo", "-q") as echoing:
        echoing.wait_for("listening")
        async with rdstool_api.Node(small) as node:
            sock = node.socket(5000)
            await sock.sendto(b"who is there", (large, 4000))
            assert await sock.recvfrom() == (b"who is there", (large, 4000))


async def test_a_sender_that_does_not_read_its_echoes_holds_up_no_other() -> None:
    deaf, other, echoing = own_addresses(3)
    with background("listen", f"{echoing}:4000", "--echo", "-q") as listening:
        listening.wait_for("listening")
        # On one path the congestion map is there before the messages that follow it.
        one_path = rdstool_api.NodeOptions(rdstool_api.Settings(paths=1, rcvbuf=1))
        async with rdstool_api.Node(deaf, options=one_path) as node, rdstool_api.Node(other) as second:
            unread = node.socket(5000)
            await unread.sendto(b"first", (echoing, 4000))
            await unread.recvmsg(flags=MSG_PEEK)
            for _ in range(10):
                await unread.sendto(b"more", (echoing, 4000))
            await unread.drain()
            sock = second.socket(5000)
            await sock.sendto(b"who is there", (echoing, 4000))
            assert await sock.recvfrom() == (b"who is there", (echoing, 4000))
            # Read in the order in which they came: those of the deaf one were before.
            listening.wait_for(f"{deaf} port 5000 does not take what is sent back")
        listening.interrupt()
        told = listening.end().stderr
    assert "12 messages, 57 bytes received in " in told
    assert told.endswith("; 10 not sent back\n")


async def test_a_sender_that_is_gone_takes_no_room_from_the_echoes_of_others() -> None:
    gone, there, echoing = own_addresses(3)
    options = rdstool_api.NodeOptions(rdstool_api.Settings(sndbuf=1000))
    async with rdstool_api.Node(echoing, options=options) as node, rdstool_api.Node(there) as second:
        echo = Echo(node, node.socket(4000))
        sock = second.socket(5000)
        await sock.sendto(b"who is there", (echoing, 4000))
        await sock.drain()
        await echo.send(bytes(1000), (gone, 5000))
        await echo.send(b"who is there", (there, 5000))
        assert await sock.recv() == b"who is there"
        assert echo.missed == 1
