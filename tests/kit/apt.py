"""Packages of another suite of Debian, unpacked into a folder: a private apt, with the machine's own mirror.

Nothing here names a host, and apt checks everything against the keys of the Debian archive.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CALL_S = 600.0
"""Seconds for one call of apt."""


def machine_mirror() -> str:
    """URI of the Debian archive that the machine's apt sources name."""
    targets = _call("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    for line in targets.splitlines():
        label, _, uri = line.partition(" ")
        if label == "Debian":
            return uri
    raise AssertionError("the apt sources of this machine name no Debian archive; run apt-get update")


class PrivateApt:
    """An apt with a state of its own in ``folder``, which knows one suite."""

    def __init__(self, folder: Path, suite: str, mirror: str) -> None:
        for part in ("parts", "state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        sources = folder / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        places = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": folder / "parts",
            "Dir::Etc::preferencesparts": folder / "parts",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": folder / "parts",
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "4",
        }
        proxies = re.findall(r"^Acquire::https?\b.*;$", _call("apt-config", "dump"), re.MULTILINE)
        lines = [*proxies, *(f'{name} "{value}";' for name, value in places.items())]
        configuration = folder / "apt.conf"
        configuration.write_text("\n".join(lines) + "\n")
        self._configuration = configuration

    def update(self) -> None:
        """Get the suite's index."""
        self._apt("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")

    def closure(self, package: str, wanted: re.Pattern[str]) -> list[str]:
        """The packages whose names match ``wanted`` that ``package`` depends on, directly or not; itself first."""
        found = {package: None}
        left = [package]
        while left:
            for line in self._apt("apt-cache", "depends", "--important", left.pop()).splitlines():
                needed = line.rpartition("Depends: ")[2].strip()
                if "Depends: " in line and wanted.fullmatch(needed) and needed not in found:
                    found[needed] = None
                    left.append(needed)
        return list(found)

    def download(self, packages: Sequence[str], folder: Path) -> list[Path]:
        """Put the packages' files into an empty ``folder``."""
        self._apt("apt-get", "-q", "download", *packages, folder=folder)
        return sorted(folder.glob("*.deb"))

    def _apt(self, *command: str, folder: Path | None = None) -> str:
        return _call(*command, folder=folder, environment={"APT_CONFIG": str(self._configuration)})


def _call(*command: str, folder: Path | None = None, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=CALL_S,
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
