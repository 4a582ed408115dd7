"""The command line as a whole: help, version, exit statuses, completion."""

from __future__ import annotations

import gc
import gzip
import subprocess
from pathlib import Path

import pytest

from rdstool import __version__
from rdstool.cli import app, exit_codes
from rdstool.cli.cycles import search_seldom
from rdstool.cli.endpoints import run_job
from tests.thinned.thinning import whole, write
from tests.unit.capture.capture_files import pcap_file
from tests.unit.cli.running import COMMAND, ROOT, TCP, TIMEOUT_S, environment, rdstool, rdstool_here

HEAVY = ("asyncio", "numpy", "scapy", "ssl", "rich.live", "rich.progress", "pyarrow")


def _imported(*arguments: str) -> set[str]:
    done = subprocess.run(
        [COMMAND[0], "-X", "importtime", *COMMAND[1:], *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=TIMEOUT_S,
        check=True,
    )
    return {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}


def test_version_is_answered_before_anything_is_imported() -> None:
    done = rdstool("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rdstool {__version__}\n", "")
    assert not {"typer", *HEAVY} & _imported("--version")


def test_peers_that_are_forgotten_are_freed_while_a_node_runs() -> None:
    seen: list[int] = []

    async def job() -> exit_codes.ExitCode:
        seen.append(gc.get_threshold()[0])
        return exit_codes.ExitCode.CLEAN

    before = gc.get_threshold()
    search_seldom()  # as the command's entry point does
    try:
        run_job(job)
    finally:
        gc.set_threshold(*before)
    assert seen == [before[0]]


@pytest.mark.parametrize("arguments", [["--help"], ["decode", "--help"], ["fields", "-h"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not set(HEAVY) & _imported(*arguments)


GROUPS = ("rdma", "lab")
PARTS = [[group, name] for group in GROUPS for name in app.load(group).commands]
WRAPPING = (["lab", "run"], ["lab", "shell"], ["lab", "guest"], ["lab", "host"])
"""Commands that end with the status of another."""


@pytest.mark.parametrize(
    "arguments", [each for each in ([], *([name] for name in app.COMMANDS), *PARTS) if each not in WRAPPING], ids=str
)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_each_help_has_an_example_and_the_exit_statuses(arguments: list[str], option: str) -> None:
    done = rdstool_here(*arguments, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example" in done.stdout
    words = " ".join(done.stdout.split())
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code.value} {meaning}" in words


@pytest.mark.parametrize("arguments", WRAPPING, ids=str)
def test_the_help_of_what_runs_another_command_says_whose_exit_status_it_has(arguments: list[str]) -> None:
    assert "Exit status: that of" in rdstool_here(*arguments, "--help").stdout


USAGES = [
    ("decode", "[OPTIONS] FILE..."),
    ("send", "[OPTIONS] DEST[:PORT]..."),
    ("lua", "[OPTIONS] export|install|uninstall|status"),
    ("rdma write", "[OPTIONS] ADDR COOKIE FILE"),
    ("lab run", "[OPTIONS] KERNEL COMMAND..."),
]


@pytest.mark.parametrize(("command", "usage"), USAGES)
def test_the_usage_shows_what_is_required_without_braces(command: str, usage: str) -> None:
    assert rdstool_here(*command.split(), "--help").stdout.startswith(f"Usage: rdstool {command} {usage}\n")


def test_help_lists_all_commands() -> None:
    done = rdstool("--help")
    for name, command in app.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert command.summary in done.stdout


WRONG = [
    ([], "Missing command"),
    (["lab"], "Missing command (see: rdstool lab --help)"),
    (["rdma"], "Missing command (see: rdstool rdma --help)"),
    (["decod", "x"], "Did you mean 'decode'?"),
    (["--bogus"], "No such option"),
    (["decode"], "Missing argument"),
    (["decode", "--bogus", str(TCP)], "No such option"),
    (["decode", "no-such-file.pcap"], "no-such-file.pcap"),
    (["decode", str(ROOT)], "is a directory"),
    (["decode", str(ROOT / "pyproject.toml")], "pyproject.toml"),
    (["decode", "-Y", "rds.sequnce == 2", str(TCP)], "did you mean rds.sequence?"),
    (["decode", "--fields", "rds.nothere", str(TCP)], "no field is named"),
    (["decode", "--fields", ",", str(TCP)], "at least one name"),
    (["decode", "--json", "--csv", str(TCP)], "exclude each other"),
    (["decode", "--fields", "rds.sequence", "-V", str(TCP)], "exclude each other"),
    (["decode", "--jobs", "2", "--follow", str(TCP)], "--jobs and --follow exclude each other"),
    (["validate", "--jobs", "2", "--follow", str(TCP)], "--jobs and --follow exclude each other"),
    (["stats", "--jobs", "2", "--follow", str(TCP)], "--jobs and --follow exclude each other"),
    (["decode", "--jobs", "2", "--engine", "tshark", str(TCP)], "--jobs and --engine tshark exclude each other"),
    (["decode", "--time", "noon", str(TCP)], "--time noon is not known: take one of relative"),
    (["decode", "--time", "utc", "--json", str(TCP)], "--time is for lines and CSV"),
    (["decode", "--count", "0", str(TCP)], "--count"),
    (["decode", "--tcp-port", "70000", str(TCP)], "--tcp-port"),
    (["decode", "--parquet", "/no/such/folder/out", str(TCP)], "/no/such/folder/out"),
    (["fields", "zzzz"], "zzzz"),
    (["validate", "--explain"], "see: rdstool validate --help"),
    (["validate", "no-such-file.pcap"], "no-such-file.pcap: cannot be opened"),
    (["stats", str(ROOT)], "is a directory"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(a)[:40] for a, _ in WRONG])
def test_wrong_use_and_unreadable_input_end_with_2_and_one_line(arguments: list[str], words: str) -> None:
    done = rdstool_here(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rdstool: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, ["decode", "--count", "1", str(TCP)]),
        (2, ["decode", "no-such-file.pcap"]),
        (2, ["decode", "--no-such-option"]),
        (2, ["decode", "-Y", "rds.sequnce", str(TCP)]),
    ],
)
def test_the_exit_status_of_the_process(code: int, arguments: list[str]) -> None:
    assert rdstool(*arguments).returncode == code


def test_a_file_that_breaks_off_shows_what_could_be_read_and_ends_with_2(tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(gzip.decompress(TCP.read_bytes())[:30001])
    done = rdstool("decode", cut)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) >= 3
    assert done.stderr.startswith(f"rdstool: error: {cut}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["decode", "validate", "stats"])
def test_files_that_are_not_in_the_order_of_their_time_are_warned_about(command: str, tmp_path: Path) -> None:
    header, frames = whole("tcp-basic-73", "a")
    first = write(tmp_path / "first.pcap", header, frames[:1500])
    second = write(tmp_path / "second.pcap", header, frames[1500:])
    assert "warning" not in rdstool_here(command, first, second).stderr
    complaints = rdstool_here(command, second, first).stderr
    assert complaints.count("warning") == 1
    assert f"{first} is older than {second}" in complaints


@pytest.mark.parametrize("command", ["decode", "validate", "stats", "crosscheck"])
def test_whether_a_file_may_be_read_is_found_out_by_reading(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_, **__: False)
    assert "not readable" not in rdstool_here(command, TCP).stderr


@pytest.mark.parametrize("command", ["decode", "validate", "stats"])
def test_a_capture_without_rds_is_clean_and_says_so(command: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pcap"
    empty.write_bytes(gzip.decompress(TCP.read_bytes())[:24])
    done = rdstool_here(command, empty)
    assert done.returncode == 0
    assert done.stdout.startswith("Capture\n0 frames") if command == "stats" else not done.stdout
    assert "no RDS message" in done.stderr


ETHERNET = bytes(12)
IPV4 = ETHERNET + b"\x08\x00\x45\0\0\x28" + bytes(5)
LOST = {
    "esp": ([IPV4 + b"\x32" + bytes(30)], 1, "1 frame: 1 ESP"),
    "lldp": ([ETHERNET + b"\x88\xcc" + bytes(46)] * 2, 1, "2 frames: 2 LLDP"),
    "usb": ([bytes(64)], 220, "1 frame: 1 link type 220"),
    "web": (
        [IPV4 + b"\x06" + bytes(10) + b"\x01\xbb\0\x50" + bytes(8) + b"\x50" + bytes(7)],
        1,
        "1 frame: 1 on other TCP ports; `--tcp-port` reads RDS on other TCP ports",
    ),
    "many": (
        [ETHERNET + bytes((0x90, kind)) + bytes(46) for kind in (1, 1, 2, 2, 3, 3, 4, 5)],
        1,
        "8 frames: 2 EtherType 0x9001, 2 EtherType 0x9002, 2 EtherType 0x9003, 2 of other EtherTypes",
    ),
    "none": ([], 1, "the capture has no frames"),
}
"""Frames, their link type, and what is said of them."""


@pytest.mark.parametrize("name", LOST)
def test_a_capture_without_rds_is_told_with_what_is_in_it(name: str, tmp_path: Path) -> None:
    frames, link, said = LOST[name]
    path = tmp_path / "other.pcap"
    path.write_bytes(pcap_file(frames, link=link))
    for command in ("decode", "stats"):
        done = rdstool_here(command, path)
        assert done.returncode == 0
        assert said in done.stderr
        assert done.stderr.startswith("rdstool: warning: no RDS message was found")


def test_a_fault_of_rdstool_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(app, "load", broken)
    monkeypatch.delenv(app.DEBUG, raising=False)
    assert app.run(["decode", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("rdstool: error: ZeroDivisionError: two lines")
    assert app.DEBUG in captured.err
    assert captured.err.count("\n") == 1
    monkeypatch.setenv(app.DEBUG, "1")
    with pytest.raises(ZeroDivisionError):
        app.run(["decode", "x"])


def _completed(words: str) -> list[str]:
    done = rdstool(_RDSTOOL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    return done.stdout.split()


def test_the_shell_completes_commands_options_and_field_names() -> None:
    assert _completed("rdstool dec") == ["decode"]
    assert _completed("rdstool decode --fol") == ["--follow"]
    assert _completed("rdstool decode --fields rds.path,rds.exthdr.np") == ["rds.path,rds.exthdr.npaths"]
