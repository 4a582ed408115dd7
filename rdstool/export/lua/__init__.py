"""The Wireshark plugin: Lua made from the field tables and rules, joined with parts written by hand."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

from rdstool.export.lua.rules import rules_text
from rdstool.export.lua.tables import fields_text, layouts_text

LUA = ".lua"
PLUGIN_FILE = "rds.lua"
"""Name of the plugin among Wireshark's."""
COMPANIONS = ("rds_stress.lua", "rds_colorfilters", "rds_dfilter_buttons")
"""Files that go with it: the payload of rds-stress, colouring rules, and buttons for display filters."""


def plugin_text(version: str) -> str:
    """The whole plugin. ``version`` is told to Wireshark and in the head of the file."""
    head, *rest = (_part(part) for part in _by_name(files(__name__).joinpath("parts")))
    made = (fields_text(), layouts_text(), rules_text())
    return "\n".join([head.replace("@VERSION@", version), *made, *rest])


def _part(part: Traversable) -> str:
    """A file as it is. A folder as a block: its first file says what that gives to what is behind it.

    A function of Lua has at most 200 local names at a time. Those of a block end with it.
    """
    if part.is_file():
        return part.read_text("utf-8")
    gives, *inner = (_part(one) for one in _by_name(part))
    return "\n".join([gives, "do", *inner, "end\n"])


def _by_name(folder: Traversable) -> list[Traversable]:
    found = (part for part in folder.iterdir() if part.name.endswith(LUA) or part.is_dir())
    return sorted(found, key=lambda part: part.name)


def companion_text(name: str) -> str:
    """The text of one of :data:`COMPANIONS`, the same in every version."""
    return files(__name__).joinpath("companions", name).read_text("utf-8")
