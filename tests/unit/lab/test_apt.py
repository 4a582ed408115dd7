"""The private apt: mirrors are the machine's own, and only packages of the kernel are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdstool.errors import LabError
from rdstool.lab import apt
from rdstool.lab.apt import Mirrors, PrivateApt, machine_mirrors
from rdstool.lab.fetch import _KERNEL_PACKAGE

LISTED = """\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_debian_dists_bookworm-updates_InRelease 0
'http://safe.example/debian-security/dists/bookworm-security/InRelease' safe.example_InRelease 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.example_Packages 0
"""


def answer(monkeypatch: pytest.MonkeyPatch, **answers: str) -> list[list[str]]:
    """Let programs give these answers, by name; the calls."""
    calls: list[list[str]] = []

    def call(command: list[str], **_: object) -> str:
        calls.append(command)
        return answers[command[0].replace("-", "_")]

    monkeypatch.setattr(apt, "call", call)
    return calls


def test_mirrors_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, apt_get=LISTED)
    assert machine_mirrors() == Mirrors("http://mirror.example/debian", "http://safe.example/debian-security")


def test_a_mirror_of_another_distribution_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, apt_get="'http://mirror.example/ubuntu/dists/noble/InRelease' x 0\n")
    with pytest.raises(LabError, match="--mirror"):
        machine_mirrors()


def test_a_mirror_that_the_user_names_is_taken() -> None:
    assert machine_mirrors("http://other.example/debian/") == Mirrors("http://other.example/debian", None)


@pytest.mark.parametrize(
    ("suite", "suites"),
    [("bookworm", ["bookworm", "bookworm-security"]), ("trixie-backports", ["trixie-backports"])],
)
def test_sources_are_signed_by_debian(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suite: str, suites: list[str]
) -> None:
    (tmp_path / "keyring.gpg").touch()
    monkeypatch.setattr(apt, "KEYRING", tmp_path / "keyring.gpg")
    dump = 'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::Languages "de";\nDPkg::Post-Invoke "rm";\n'
    answer(monkeypatch, dpkg="amd64\n", apt_config=dump)
    PrivateApt(tmp_path, suite, Mirrors("http://mirror.example/debian", "http://safe.example/debian-security"))
    stanzas = (tmp_path / "etc/debian.sources").read_text().split("\n\n")
    assert [stanza.partition("Suites: ")[2].partition("\n")[0] for stanza in stanzas] == suites
    assert all(f"Signed-By: {tmp_path}/keyring.gpg" in stanza for stanza in stanzas)
    configuration = (tmp_path / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.example:3128";' in configuration
    assert "Post-Invoke" not in configuration
    assert 'Acquire::Languages "none";' in configuration


def test_without_the_keys_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apt, "KEYRING", tmp_path / "missing.gpg")
    with pytest.raises(LabError, match="apt-get install debian-archive-keyring"):
        PrivateApt(tmp_path, "bookworm", Mirrors("http://mirror.example/debian", None))


def test_a_kernel_since_7_consists_of_several_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keyring.gpg").touch()
    monkeypatch.setattr(apt, "KEYRING", tmp_path / "keyring.gpg")
    answer(monkeypatch, dpkg="amd64\n", apt_config="")
    private = PrivateApt(tmp_path, "trixie-backports", Mirrors("http://mirror.example/debian", None))
    depends = {
        "linux-image-amd64": "  Depends: linux-base-amd64\n  Depends: linux-image-7.3.4+deb13-amd64\n",
        "linux-image-7.3.4+deb13-amd64": " |Depends: dracut\n  Depends: linux-binary-7.3.4+deb13-amd64\n"
        "  Depends: linux-modules-7.3.4+deb13-amd64\n",
        "linux-binary-7.3.4+deb13-amd64": "  PreDepends: linux-base\n",
        "linux-modules-7.3.4+deb13-amd64": "  Depends: kmod\n",
    }
    monkeypatch.setattr(apt, "call", lambda command, **_: depends[command[-1]])
    assert sorted(private.closure("linux-image-amd64", _KERNEL_PACKAGE)) == [
        "linux-binary-7.3.4+deb13-amd64",
        "linux-image-7.3.4+deb13-amd64",
        "linux-modules-7.3.4+deb13-amd64",
    ]
