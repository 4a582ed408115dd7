"""What documents say about the project's files is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "pcaps" / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
]


def test_every_capture_is_described_and_has_its_files() -> None:
    described = set(re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "pcaps" / "README.md").read_text(), re.MULTILINE))
    folders = {path.name for path in (ROOT / "pcaps").iterdir() if path.is_dir()}
    assert described == folders
    for name in folders:
        assert {path.name for path in (ROOT / "pcaps" / name).iterdir()} >= {"a.pcap.gz", "b.pcap.gz", "truth.json"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", document.read_text())
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_made_can_be_made(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for line in re.findall(r"(?:^    |`)make ((?:[a-z-]+ ?)+)", document.read_text(), re.MULTILINE)
        for target in line.split()
    }
    assert named <= targets
