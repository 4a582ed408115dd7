"""decode --engine tshark and crosscheck, and what they say where tshark is missing, too old, or without Lua."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from rdstool.capture import streams
from rdstool.capture.pipeline import CaptureOptions
from rdstool.errors import TsharkError
from rdstool.export.lua import PLUGIN_FILE, plugin_text
from rdstool.tshark.engine import TsharkCapture
from rdstool.tshark.install import install
from rdstool.tshark.program import VARIABLE, Tshark, find_tshark
from tests.kit.tsharks import bare_tshark
from tests.tshark.running import CAPTURE, RDSTOOL, ROOT, RUN_S, fake, one_line_error, rdstool


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'TShark (Wireshark) 3.6.2'", "is version 3.6, the plugin needs 4.0 or later"),
        ("echo hello", "does not say which version it is"),
        ("exit 3", "failed: it says nothing"),
        ("[ $1 = -G ] || echo 'TShark (Wireshark) 4.2.0'", "was built without Lua"),
    ],
)
def test_a_tshark_that_cannot_do_it_is_told_with_what_to_install(script: str, told: str, tmp_path: Path) -> None:
    path = fake(tmp_path / "tshark", script)
    with pytest.raises(TsharkError, match="apt-get install tshark") as caught:
        find_tshark(str(path))
    assert told in str(caught.value)


COMMANDS = [("lua", "install"), ("crosscheck", str(CAPTURE)), ("capture", "-i", "lo", "-d", "1")]
"""Those that need a tshark."""


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_a_tshark_that_is_too_old_is_one_line_before_anything_is_begun(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    path = fake(tmp_path / "tshark", "echo 'TShark (Wireshark) 3.6.2'")
    assert "is version 3.6, the plugin needs 4.0" in one_line_error(rdstool(*command, **{VARIABLE: str(path)}))


def test_no_tshark_is_one_line() -> None:
    assert "is no program" in one_line_error(rdstool("crosscheck", str(CAPTURE), **{VARIABLE: "/nowhere/tshark"}))


def test_a_file_that_tshark_cannot_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.pcap"
    path.write_bytes(bytes(100))
    assert "tshark says: " in one_line_error(rdstool("decode", "--engine", "tshark", str(path)))


def test_more_streams_than_are_followed_are_an_error_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    second = TsharkCapture([str(ROOT / "pcaps" / "tcp-basic-73" / "a.pcap.gz")], CaptureOptions())
    with pytest.raises(TsharkError, match="more than 2 streams; read larger captures without --engine tshark"):
        list(second.batches())


@pytest.mark.parametrize("arguments", [("-",), (str(CAPTURE), str(CAPTURE)), ("--follow", str(CAPTURE))])
def test_the_engine_reads_one_whole_file(arguments: tuple[str, ...]) -> None:
    assert "reads one file" in one_line_error(rdstool("decode", "--engine", "tshark", *arguments))


def test_an_unknown_engine_is_told() -> None:
    told = one_line_error(rdstool("decode", "--engine", "ethereal", str(CAPTURE)))
    assert "--engine ethereal is not known: take one of native, tshark" in told


# ---- The second engine.


def test_both_engines_write_the_same_lines() -> None:
    arguments = ("decode", "--json", "--hash", str(CAPTURE))
    ours, theirs = rdstool(*arguments), rdstool(*arguments, "--engine", "tshark")
    assert ours.stdout == theirs.stdout
    assert len(ours.stdout.splitlines()) > 40


def test_the_second_engine_runs_nothing_that_lies_among_temporary_files(tmp_path: Path) -> None:
    """There, many machines forbid to run programs."""
    (tmp_path / "temporary").mkdir()
    line = (
        f"mount -t tmpfs -o noexec none '{tmp_path}/temporary' && "
        f"'{RDSTOOL}' decode --engine tshark --count 1 '{CAPTURE}'"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_ctrl_c_ends_tshark_and_says_nothing(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    endless = fake(
        tmp_path / "tshark",
        f'{find_tshark().path} "$@"\ncase "$*" in *pdml*) touch {ready}; exec sleep {RUN_S} ;; esac',
    )
    decoding = subprocess.Popen(
        [RDSTOOL, "decode", "--engine", "tshark", str(CAPTURE)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, VARIABLE: str(endless)},
    )
    # It is larger than a pipe, so most of the output has been read by then.
    while not ready.exists():
        assert decoding.poll() is None
    decoding.send_signal(signal.SIGINT)
    _, said = decoding.communicate(timeout=RUN_S)
    assert (decoding.returncode, said) == (130, b"")


def test_the_plugin_is_that_of_this_rdstool_whichever_is_installed(tmp_path: Path, tshark: Tshark) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), VARIABLE: tshark.path}
    other = plugin_text("0.0.1").replace('"good" or "bad"', '"bad" or "bad"')
    folder = tmp_path / ".local" / "lib" / "wireshark" / "plugins"
    folder.mkdir(parents=True)
    (folder / PLUGIN_FILE).write_text(other, "utf-8")
    done = rdstool("crosscheck", str(CAPTURE), **home)
    assert (done.returncode, done.stdout) == (0, "")


def test_another_plugin_of_all_users_is_told(tmp_path: Path) -> None:
    tshark = bare_tshark(tmp_path)
    install(tshark.shared, "0.0.1")
    told = one_line_error(rdstool("crosscheck", str(CAPTURE), **{VARIABLE: tshark.path}))
    assert told.endswith(f"to replace it: sudo rdstool lua install --force --directory {tshark.shared}\n")


def test_crosscheck_ends_well_where_there_is_no_difference() -> None:
    done = rdstool("crosscheck", str(CAPTURE))
    assert (done.returncode, done.stdout) == (0, "")
    assert "no difference" in done.stderr
