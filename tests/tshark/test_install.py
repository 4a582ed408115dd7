"""rdstool lua install, uninstall, status and export, and what they say where something is in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rdstool import __version__
from rdstool.errors import TsharkError
from rdstool.export.lua import PLUGIN_FILE, plugin_text
from rdstool.tshark.install import EXTCAP_FILE, install, install_extcap, installed, uninstall, uninstall_extcap
from rdstool.tshark.program import VARIABLE, find_tshark
from tests.kit.loopback import own_addresses
from tests.kit.tsharks import bare_tshark
from tests.tshark.running import CAPTURE, RUN_S, fake, one_line_error, rdstool, run
from tests.unit.cli.background import background


def test_the_installed_plugin_is_found_by_tshark(tmp_path: Path) -> None:
    tshark = find_tshark()
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = rdstool("lua", "install", **home)
    assert done.returncode == 0
    assert str(tmp_path) in done.stderr
    listed = subprocess.run(
        [tshark.path, "-G", "protocols"], capture_output=True, text=True, check=True, env={**os.environ, **home}
    )
    assert "rds" in [line.split("\t")[2] for line in listed.stdout.splitlines()]
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


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The directory of all users' plugins, which the tshark of :func:`at_home` names."""
    path = tmp_path / "shared"
    path.mkdir()
    return path


def at_home(shared: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``rdstool lua`` by a user with a home of his own beside ``shared``."""
    home = shared.with_name("home")
    own = f"Personal Lua Plugins: {home}\nGlobal Lua Plugins: {shared}\nPersonal Extcap path: {home}"
    program = fake(shared.with_name("tshark"), f"echo 'TShark (Wireshark) 4.0.0'\necho '{own}'")
    return rdstool("lua", *arguments, **{VARIABLE: str(program)})


def test_where_all_users_have_the_plugin_none_is_installed_beside_it(shared: Path) -> None:
    """Wireshark 4.0 would load both, and complain; 4.4 and later load no other."""
    install(shared, __version__)
    path = shared / PLUGIN_FILE
    done = at_home(shared, "install")
    assert done.returncode == 0
    assert f"{path} is the plugin of this rdstool, {__version__}, for all users\n" in done.stderr
    assert [one.name for one in shared.with_name("home").iterdir()] == [EXTCAP_FILE]
    assert at_home(shared, "status").stdout == f"{path} is the plugin of this rdstool, {__version__}, for all users\n"


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_where_all_users_have_another_plugin_it_is_to_be_replaced(force: tuple[str, ...], shared: Path) -> None:
    path = shared / PLUGIN_FILE
    remedy = f"; to replace it: sudo rdstool lua install --force --directory {shared}\n"
    for text, whose in ((plugin_text("0.0.1"), "of rdstool 0.0.1"), ("-- my own\n", "not made by rdstool")):
        path.write_text(text, "utf-8")
        told = f"{path} is {whose}, this is {__version__}, and Wireshark loads it for all users{remedy}"
        assert one_line_error(at_home(shared, "install", *force)).endswith(told)
        assert at_home(shared, "status").stdout == told
    assert not shared.with_name("home").exists()


def test_a_plugin_beside_that_of_all_users_is_told_and_removed(shared: Path) -> None:
    assert at_home(shared, "install").returncode == 0
    install(shared, __version__)
    first, second = at_home(shared, "status").stdout.splitlines()
    assert first.endswith(", for all users")
    assert second.endswith(f"{PLUGIN_FILE} is one too many beside it; to remove it: rdstool lua uninstall")
    assert at_home(shared, "uninstall").returncode == 0
    assert (shared / PLUGIN_FILE).exists()
    assert at_home(shared, "status").stdout == f"{first}\n"


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


def test_a_capture_filter_for_a_node_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    """Wireshark asks before, where one is typed, and takes whatever is printed for what is wrong with it."""
    line = [sys.executable, "-m", "rdstool.tshark.extcap", "--extcap-interface", "rdstool-1"]
    told = "all frames of a node are captured: use a display filter in place of the capture filter\n"
    for text, answer in (("udp", told), ("", "")):
        asked = subprocess.run([*line, "--extcap-capture-filter", text], capture_output=True, text=True, check=False)
        assert (asked.returncode, asked.stdout, asked.stderr) == (0, answer, "")
    capture = ["--capture", "--fifo", str(tmp_path / "f"), "--extcap-capture-filter", "udp"]
    done = subprocess.run([*line, *capture], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


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
