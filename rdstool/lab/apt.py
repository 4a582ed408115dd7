"""A private apt for one suite: it takes packages from the machine's own mirror and leaves the machine's apt alone.

Nothing here names a host: the mirrors are those that the machine's sources name. What comes from them is checked
against the keys of the Debian archive, by apt itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rdstool.errors import LabError
from rdstool.lab.tools import call

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""The Debian archive's keys; package debian-archive-keyring."""

_CODENAMES = (
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
)
"""Suites by which a mirror of Debian is known; a mirror of another distribution has none of them."""

_INDEX = re.compile(r"^'(?P<mirror>[^']+)/dists/(?P<suite>[^/']+)(?:/updates)?/InRelease'", re.MULTILINE)
_CARRIED = re.compile(
    r"^Acquire::(?:https?|ftp|socks5h?|ForceIPv4|ForceIPv6|Check-Date|Check-Valid-Until)\b.*;$", re.MULTILINE
)
"""Settings of the machine's apt that reaching its mirror may take: proxies, certificates, a wrong clock."""

_TIMEOUT_S = 600.0
"""For one call of apt-get: it gives up stalled transfers itself."""

_RETRIES = 4
"""How often apt tries a failed transfer again."""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Where the machine gets Debian from."""

    main: str
    """URI of the archive that has the release and its backports."""
    security: str | None
    """URI of the security archive, where the machine uses it."""


def machine_mirrors(override: str | None = None) -> Mirrors:
    """The Debian mirrors of the machine's apt sources; ``override`` is a mirror that the user named instead.

    Raises ``LabError`` where the sources name no mirror of Debian.
    """
    if override:
        return Mirrors(override.rstrip("/"), None)
    listed = call(["apt-get", "update", "--print-uris"], what="cannot read the apt sources", timeout_s=_TIMEOUT_S)
    main = security = None
    for found in _INDEX.finditer(listed):
        suite = found["suite"]
        if suite.partition("-")[0] not in _CODENAMES:
            continue
        if suite.endswith("-security"):
            security = security or found["mirror"]
        else:
            main = main or found["mirror"]
    if main is None:
        raise LabError("the apt sources of this machine name no Debian mirror: name one with --mirror URI")
    return Mirrors(main, security)


class PrivateApt:
    """An apt with a state of its own in ``folder``, which knows one suite of Debian, and its security updates."""

    def __init__(self, folder: Path, suite: str, mirrors: Mirrors) -> None:
        if not KEYRING.exists():
            raise LabError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
        self.suite = suite
        self._environment = {"APT_CONFIG": str(folder / "apt.conf")}
        for part in ("etc/parts", "etc/trusted", "state/lists/partial", "cache/archives/partial", "log"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        self._write_sources(folder / "etc" / "debian.sources", mirrors)
        self._write_configuration(folder)

    def _write_sources(self, path: Path, mirrors: Mirrors) -> None:
        suites = [(mirrors.main, self.suite)]
        if mirrors.security and "-" not in self.suite:
            suites.append((mirrors.security, f"{self.suite}-security"))
        stanzas = (
            f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
            for mirror, suite in suites
        )
        path.write_text("\n".join(stanzas))

    def _write_configuration(self, folder: Path) -> None:
        architecture = call(["dpkg", "--print-architecture"], what="cannot ask dpkg").strip()
        carried = _CARRIED.findall(call(["apt-config", "dump"], what="cannot read apt's configuration"))
        places = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": folder / "etc/parts",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": folder / "etc/parts",
            "Dir::Etc::sourcelist": folder / "etc/debian.sources",
            "Dir::Etc::sourceparts": folder / "etc/parts",
            "Dir::Etc::trusted": "/dev/null",
            "Dir::Etc::trustedparts": folder / "etc/trusted",
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Log": folder / "log",
            "APT::Architecture": architecture,
            "APT::Sandbox::User": "",  # the folder may be where the user of apt's sandbox cannot look
            "Acquire::Languages": "none",
            "Acquire::Retries": _RETRIES,
        }
        lines = [*carried, *(f'{name} "{value}";' for name, value in places.items())]
        (folder / "apt.conf").write_text("\n".join(lines) + "\n")

    def update(self) -> None:
        """Get the suite's index. Raises ``LabError``; a signature that does not fit is an error as well."""
        options = ["-q", "-o", "APT::Update::Error-Mode=any"]
        self._apt(["apt-get", *options, "update"], f"cannot read the index of {self.suite}")

    def closure(self, package: str, wanted: re.Pattern[str]) -> list[str]:
        """The packages that ``package`` depends on, directly or not, and whose names match ``wanted``; itself not."""
        found: dict[str, None] = {}
        left = [package]
        while left:
            name = left.pop()
            what = f"{self.suite} has no package {name}"
            for line in self._apt(["apt-cache", "depends", "--important", name], what).splitlines():
                needed = line.rpartition("Depends: ")[2].strip()
                if "Depends: " in line and wanted.fullmatch(needed) and needed not in found:
                    found[needed] = None
                    left.append(needed)
        if not found:
            raise LabError(f"{self.suite}: {package} depends on no kernel")
        return list(found)

    def version(self, package: str) -> str:
        """The version that would be downloaded."""
        shown = self._apt(["apt-cache", "show", "--no-all-versions", package], f"{self.suite} has no package {package}")
        return next(line.removeprefix("Version: ") for line in shown.splitlines() if line.startswith("Version: "))

    def download(self, packages: list[str], folder: Path) -> list[Path]:
        """Put the packages' files into an empty ``folder``; apt checks them against the index."""
        self._apt(["apt-get", "-q", "download", *packages], f"cannot download {' '.join(packages)}", folder)
        return sorted(folder.glob("*.deb"))

    def _apt(self, command: list[str], what: str, folder: Path | None = None) -> str:
        return call(command, what=what, environment=self._environment, timeout_s=_TIMEOUT_S, folder=folder)
