"""rdstool lua, decode --engine tshark, crosscheck and capture, and what they say where something is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rdstool import __version__
from rdstool.capture import streams
from rdstool.capture.pipeline import CaptureOptions
from rdstool.errors import TsharkError, UsageError
from rdstool.export.lua import PLUGIN_FILE, plugin_text
from rdstool.tshark.engine import TsharkCapture
from rdstool.tshark.install import EXTCAP_FILE, install, install_extcap, installed, uninstall, uninstall_extcap
from rdstool.tshark.live import LiveCapture, capture_filter
from rdstool.tshark.program import VARIABLE, Tshark, find_tshark
from tests.kit import tcp
from tests.kit.loopback import own_addresses
from tests.kit.tsharks import bare_tshark
from tests.kit.tunnels import in_tunnels
from tests.tshark.running import ROOT, RUN_S, run
from tests.unit.cli.background import background

RDSTOOL = str(Path(sys.executable).with_name("rdstool"))
CAPTURE = ROOT / "pcaps" / "ib-rdma-73" / "a.pcap.gz"


def rdstool(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RDSTOOL, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stderr.startswith("rdstool: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


# ---- Install and uninstall.


def test_the_installed_plugin_is_found_by_tshark(tmp_path: Path) -> None:
    tshark = find_tshark()
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = rdstool("lua", "install", **home)
    assert done.returncode == 0
    assert str(tmp_path) in done.stderr
    listed = subprocess.run(
        [tshark.path, "-G", "protocols"], capture_output=True, text=True, check=True, env={**os.environ, **home}
    )
    assert "\trds\n" in listed.stdout
    assert rdstool("lua", "status", **home).stdout.endswith(f"is the plugin of this rdstool, {__version__}\n")
    assert rdstool("lua", "uninstall", **home).returncode == 0
    assert rdstool("lua", "status", **home).stdout.startswith("no plugin in")


def test_root_installs_for_all_users_where_wireshark_loads_nothing_else_for_root(tmp_path: Path) -> None:
    """The tests run as root."""
    tshark = bare_tshark(tmp_path)
    own = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), VARIABLE: tshark.path}
    assert "has loaded no plugin; " in one_line_error(rdstool("crosscheck", str(CAPTURE), **own))
    assert rdstool("lua", "install", **own).returncode == 0
    assert (tshark.shared / PLUGIN_FILE).exists()
    listed = run(tshark, "-r", str(CAPTURE), "-Y", "rds", scripts=())
    assert listed.count("\n") > 40
    done = rdstool("crosscheck", str(CAPTURE), **own)
    assert (done.returncode, done.stdout) == (0, "")
    assert rdstool("lua", "uninstall", **own).returncode == 0
    assert list(tshark.shared.iterdir()) == []


def test_wireshark_lists_running_nodes_and_captures_what_they_exchange(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    here, there = own_addresses(2)
    assert rdstool("lua", "install", **home).returncode == 0
    with background("listen", f"{there}:4000", "-q") as listening:
        listening.wait_for("listening")
        interface = f"rdstool-{listening.process.pid}"
        listed = subprocess.run(
            ["tshark", "-D"], capture_output=True, text=True, check=True, env={**os.environ, **home}
        )
        assert f"{interface} (RDS node {there})" in listed.stdout
        shown = subprocess.Popen(
            ["tshark", "-l", "-i", interface, "-Y", "rds.dport == 4000", "-T", "fields", "-e", "rds.length"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **home},
        )
        assert shown.stdout is not None
        first, lines = shown.stdout, list[str]()
        reader = threading.Thread(target=lambda: lines.append(first.readline()), daemon=True)
        reader.start()
        # Nothing tells from when on tshark has the frames: datagrams go until it shows one.
        while reader.is_alive():
            assert rdstool("send", f"{there}:4000", "--from", here, "-m", "hello").returncode == 0
        listening.interrupt()
        listening.end()
        rest, _ = shown.communicate(timeout=RUN_S)
    assert shown.returncode == 0
    assert all("5" in line.strip().split(",") for line in [*lines, *rest.splitlines()])
    assert rdstool("lua", "uninstall", **home).returncode == 0
    assert list((tmp_path / "config").rglob("rdstool")) == []


def test_an_interface_of_a_node_that_has_ended_is_told(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "rdstool.tshark.extcap", "--capture", "--extcap-interface", "rdstool-1"]
    done = subprocess.run([*line, "--fifo", str(tmp_path / "f")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rdstool-1 has ended; refresh the list of interfaces (F5)\n"


def test_an_extcap_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / EXTCAP_FILE
    path.write_text("#!/bin/sh\n")
    with pytest.raises(TsharkError, match="to replace it, add --force"):
        install_extcap(tmp_path)
    with pytest.raises(TsharkError, match="to remove it all the same, add --force"):
        uninstall_extcap(tmp_path)
    assert path.read_text() == "#!/bin/sh\n"


def test_a_directory_for_the_extcap_that_cannot_be_is_told_with_its_own_option(tmp_path: Path) -> None:
    place = ("--directory", str(tmp_path), "--extcap", "/proc/none")
    for action in ("install", "uninstall"):
        done = rdstool("lua", action, *place)
        assert action == "uninstall" or one_line_error(done).endswith("--extcap, or leave it out\n")


def test_a_dissector_that_the_user_has_changed_is_kept_unless_forced(tmp_path: Path) -> None:
    install(tmp_path, __version__)
    own = tmp_path / "rds_stress.lua"
    before = own.read_text()
    own.write_text("-- mine\n")
    place = ("--directory", str(tmp_path))
    for action in ("install", "uninstall"):
        done = rdstool("lua", action, *place)
        assert done.returncode == 0
        assert f"{own} is left as it is: it was changed; to {action} it all the same, add --force\n" in done.stderr
        assert own.read_text() == "-- mine\n"
    assert rdstool("lua", "install", "--force", *place).returncode == 0
    assert own.read_text() == before
    own.write_text("-- mine\n")
    assert rdstool("lua", "uninstall", "--force", *place).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_export_writes_the_plugin_to_standard_output() -> None:
    assert rdstool("lua", "export").stdout == plugin_text(__version__)


def test_export_leaves_a_file_of_somebody_else_alone(tmp_path: Path) -> None:
    path = tmp_path / PLUGIN_FILE
    path.write_text("-- my own\n")
    assert "was not made by rdstool" in one_line_error(rdstool("lua", "export", "-o", str(tmp_path)))
    assert path.read_text() == "-- my own\n"
    assert rdstool("lua", "export", "-o", str(tmp_path), "--force").returncode == 0
    path.write_text(plugin_text("0.0.1"), "utf-8")
    assert rdstool("lua", "export", "-o", str(tmp_path)).returncode == 0
    assert path.read_text("utf-8") == plugin_text(__version__)


UNWRITABLE = ["/proc/plugins", "/sys/plugins", str(Path(__file__))]
"""No such file, to whom makes a directory; not permitted, even to root; no directory."""


@pytest.mark.parametrize("directory", UNWRITABLE)
def test_export_where_nothing_can_be_written_names_its_own_remedy(directory: str) -> None:
    told = one_line_error(rdstool("lua", "export", "-o", directory))
    assert directory in told
    assert told.endswith("; write it elsewhere: rdstool lua export -o DIR\n")


def test_a_plugin_of_another_version_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / PLUGIN_FILE
    path.write_text(plugin_text("0.0.1"), "utf-8")
    with pytest.raises(TsharkError, match=r"of rdstool 0\.0\.1; to replace it: rdstool lua install --force"):
        install(tmp_path, __version__)
    install(tmp_path, __version__, force=True)
    found = installed(tmp_path)
    assert found is not None
    assert found.version == __version__


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / PLUGIN_FILE
    path.write_text("-- my own\n")
    with pytest.raises(TsharkError, match="--force"):
        install(tmp_path, __version__)
    with pytest.raises(TsharkError, match="--force"):
        uninstall(tmp_path)
    assert path.read_text() == "-- my own\n"


def test_a_file_in_the_way_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "plugins").write_text("")
    line = ("lua", "install", "--directory", str(tmp_path / "plugins"))
    mended = "it is in the way, move it aside: mv "
    assert f"{tmp_path / 'plugins'}: Not a directory; {mended}" in one_line_error(rdstool(*line, HOME=str(tmp_path)))
    assert "; take another directory: " in one_line_error(rdstool(*line, HOME="/home/of/nobody"))


@pytest.mark.parametrize("action", ["install", "status", "uninstall"])
def test_what_is_in_the_way_of_the_plugin_is_told_with_its_remedy(action: str, tmp_path: Path) -> None:
    path = tmp_path / PLUGIN_FILE
    path.mkdir()
    told = one_line_error(rdstool("lua", action, "--directory", str(tmp_path), HOME=str(tmp_path)))
    assert told.endswith(f"{path}: Is a directory; it is in the way, move it aside: mv {path} {path}.old\n")


def test_a_link_to_nowhere_is_told_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "plugins"
    path.symlink_to("/nowhere/plugins")
    told = one_line_error(rdstool("lua", "install", "--directory", str(path), HOME=str(tmp_path)))
    assert told.endswith(f"; it is in the way, move it aside: mv {path} {path}.old\n")


REFUSED = """
import os, sys
from pathlib import Path
from rdstool.errors import TsharkError
from rdstool.tshark import install
texts = {name: install.companion_text(name) for name in install.COMPANIONS}
install.companion_text = texts.get  # nobody may not be let into this checkout
os.setuid(65534)
try:
    install.uninstall(Path(sys.argv[1]))
except TsharkError as problem:
    print(problem)
"""


def as_nobody(directory: Path, home: Path) -> str:
    """What is told to a user without rights who uninstalls."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(directory)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(home)},
    )
    return done.stdout


def test_what_is_not_permitted_is_told_with_its_remedy() -> None:
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        home.chmod(0o755)
        directory = home / "plugins"
        install(directory, __version__)
        refused = f"{directory}: Permission denied; "
        as_root = f"only root may: sudo rdstool lua uninstall --directory {directory}\n"
        assert as_nobody(directory, Path("/home/of/nobody")) == refused + as_root
        for mode in (0o755, 0o700):
            directory.chmod(mode)
            assert as_nobody(directory, home) == f"{refused}make it yours: sudo chown -R $USER {directory}\n"


def test_a_directory_that_was_named_stands_in_the_remedy(tmp_path: Path) -> None:
    (tmp_path / PLUGIN_FILE).write_text(plugin_text("0.0.1"), "utf-8")
    named = ("--directory", str(tmp_path))
    remedy = f"; to replace it: rdstool lua install --force --directory {tmp_path}\n"
    assert one_line_error(rdstool("lua", "install", *named)).endswith(remedy)
    assert rdstool("lua", "status", *named).stdout.endswith(remedy)


# ---- tshark missing, too old, or without Lua.


def fake(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


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


# ---- Live.


def test_the_capture_filter_lets_rds_pass_and_nothing_else(tmp_path: Path) -> None:
    text = capture_filter([16385])
    assert "tcp port 16385" in text
    assert "udp port 4791" in text
    assert "ether proto 0x8915" in text
    assert "vlan" in text
    assert "ether" not in capture_filter([1, 2], ethernet=False)
    assert "vlan" not in capture_filter([1, 2], vlan=False)
    assert "4789" not in text
    in_tunnels = capture_filter([16385], tunnels=True)
    assert "4789" in in_tunnels
    assert "0x8926" in in_tunnels


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
