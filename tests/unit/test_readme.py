"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit.loopback import own_addresses
from tests.unit.cli.running import lines, rdstool_here

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SPEAKING = (ROOT / "docs" / "speaking.md").read_text()
INFINIBAND = (ROOT / "docs" / "infiniband.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README + SPEAKING + INFINIBAND, re.DOTALL)


@pytest.mark.parametrize("program", PYTHON, ids=range(len(PYTHON)))
def test_programs_run_and_print(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    # Loopback addresses that no other test run uses at the same time.
    named = sorted(set(re.findall(r"127\.0\.0\.\d+", program)))
    for name, own in zip(named, own_addresses(len(named)), strict=True):
        program = program.replace(f'"{name}"', f'"{own}"')
    exec(compile(program, "README.md", "exec"), {})  # noqa: S102 - our own text
    assert capsys.readouterr().out


def test_the_lines_of_decode_are_real() -> None:
    shown = [line.strip() for line in README.splitlines() if re.match(r" +\d+ +2\.1", line)]
    real = {line.strip() for line in lines("decode", "--count", "8", ROOT / "pcaps" / "tcp-basic-73" / "a.pcap.gz")}
    assert shown
    assert set(shown) <= real


def test_the_finding_is_real() -> None:
    capture = ROOT / "pcaps" / "tcp-cut-61" / "a.pcap.gz"
    found = rdstool_here("validate", "--select", "RDS-DLV-001", capture).stdout
    shown = re.sub(r"\n *", " ", README[README.index("frame 2097") : README.index("so it is accepted")])
    assert found.startswith(shown)


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
