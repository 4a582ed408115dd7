"""What `rdstool lua export` writes is what stands in lua/; it is good Lua for 5.2 and 5.4, and has rdstool's fields."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from rdstool import __version__
from rdstool.export.lua import COMPANIONS, PLUGIN_FILE, companion_text, plugin_text
from rdstool.export.lua.derived import PLUGIN_FIELDS
from rdstool.export.lua.tables import LEFT_TO_WIRESHARK, NOT_IN_LUA, plugin_fields
from rdstool.export.lua.titles import title
from rdstool.fields import registry
from rdstool.tshark.program import Tshark
from rdstool.validate.alone import ALONE
from rdstool.validate.registry import RULES
from tests.tshark.running import PLUGIN, ROOT, STRESS, run

SCRIPTS = [PLUGIN, STRESS]
SPARE_NAMES = 25
"""Of the 200 local names that the main part may have at a time, so many are free."""


@pytest.mark.parametrize("name", [PLUGIN_FILE, *COMPANIONS])
def test_the_committed_files_are_what_is_exported(name: str) -> None:
    made = plugin_text(__version__) if name == PLUGIN_FILE else companion_text(name)
    assert (ROOT / "lua" / name).read_text("utf-8") == made, "run: .venv/bin/rdstool lua export -o lua"


@pytest.mark.parametrize("version", ["5.2", "5.4"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_plugin_compiles(script: Path, version: str) -> None:
    subprocess.run([f"luac{version}", "-p", str(script)], check=True)


@pytest.mark.parametrize("version", ["5.2", "5.4"])
def test_a_part_can_be_added_within_the_names_that_a_function_of_lua_may_have(version: str) -> None:
    more = "".join(f"local spare_{number}\n" for number in range(SPARE_NAMES))
    text = PLUGIN.read_text("utf-8") + more
    subprocess.run([f"luac{version}", "-p", "-"], input=text, text=True, check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_linter_finds_nothing(script: Path) -> None:
    done = subprocess.run(
        ["luacheck", "--no-color", "--quiet", str(script)], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


def test_wireshark_knows_every_field_of_rdstool(tshark: Tshark) -> None:
    known = set(re.findall(r"^F\t[^\t]*\t(rds(?:\.[^\t]*)?)\t", run(tshark, "-G", "fields"), re.MULTILINE))
    known |= set(re.findall(r"^P\t[^\t]*\t(rds)$", run(tshark, "-G", "protocols"), re.MULTILINE)) | {"rds"}
    ours = {name for name in registry() if not name.startswith(LEFT_TO_WIRESHARK)} - NOT_IN_LUA
    added = {field.name for field in PLUGIN_FIELDS}
    assert {name for name in known if not name.startswith("rds.rule.")} == ours | added


def test_wireshark_explains_every_field_of_rdstool(tshark: Tshark) -> None:
    rows = [line.split("\t") for line in run(tshark, "-G", "fields").splitlines() if "\trds." in line]
    told = {row[2]: row[7] or row[1] for row in rows if row[0] == "F"}
    meanings = {info.name: info.meaning for info in plugin_fields()} | {own.name: own.meaning for own in PLUGIN_FIELDS}
    structures = {name for name in meanings if name in told and told[name] == title(name, meanings[name])}
    assert {name: told[name] for name in meanings.keys() - structures} == {
        name: meanings[name] for name in meanings.keys() - structures
    }


def test_checked_rules_are_rules_of_validate() -> None:
    assert set(ALONE) <= {rule.id for rule in RULES}


def test_wireshark_reads_the_buttons_and_colouring_rules_of_a_profile(
    tshark: Tshark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "wireshark"
    profile.mkdir()
    for name, companion in (("dfilter_buttons", "rds_dfilter_buttons"), ("colorfilters", "rds_colorfilters")):
        (profile / name).write_text(companion_text(companion), "utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    capture = ROOT / "pcaps" / "ib-rdma-73" / "a.pcap.gz"
    coloured = ("--color", "-T", "fields", "-e", "frame.coloring_rule.name", "-Y", "rds")
    assert set(run(tshark, "-r", str(capture), *coloured).split("\n")) >= {"RDS", "RDS RDMA"}


def test_colouring_rules_and_buttons_are_filters_that_wireshark_takes(tshark: Tshark, tmp_path: Path) -> None:
    filters = [line.split("@")[2] for line in companion_text("rds_colorfilters").splitlines() if line.startswith("@")]
    buttons = [line for line in companion_text("rds_dfilter_buttons").splitlines() if not line.startswith("#")]
    filters += [line.split('","')[2].replace(r"\x22", '"') for line in buttons]
    assert len(filters) == 16
    capture = ROOT / "pcaps" / "ib-rdma-73" / "a.pcap.gz"
    whole = " || ".join(f"({text})" for text in filters)
    assert run(tshark, "-r", str(capture), "-Y", whole).count("\n") > 10
