"""The Wireshark plugin: Lua made from the field tables and rules, joined with parts written by hand."""

from __future__ import annotations

from importlib.resources import files

from rdstool.export.lua.rules import rules_text
from rdstool.export.lua.tables import fields_text, layouts_text

PLUGIN_FILE = "rds.lua"
"""Name of the plugin among Wireshark's."""
COMPANIONS = ("rds_stress.lua", "rds_colorfilters", "rds_dfilter_buttons")
"""Files that go with it: the payload of rds-stress, colouring rules, and buttons for display filters."""


def plugin_text(version: str) -> str:
    """The whole plugin. ``version`` is told to Wireshark and in the head of the file."""
    parts = {part.name: part.read_text("utf-8") for part in files(__name__).joinpath("parts").iterdir()}
    head, *rest = (parts[name] for name in sorted(parts) if name.endswith(".lua"))
    made = (fields_text(), layouts_text(), rules_text())
    return "\n".join([head.replace("@VERSION@", version), *made, *rest])


def companion_text(name: str) -> str:
    """The text of one of :data:`COMPANIONS`, the same in every version."""
    return files(__name__).joinpath("companions", name).read_text("utf-8")
