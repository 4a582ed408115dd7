"""The rules that the plugin checks, as Lua: expert items, and a preference for each group."""

from __future__ import annotations

from rdstool.export.lua.text import block, quoted
from rdstool.validate.alone import ALONE
from rdstool.validate.registry import AREAS, RULES
from rdstool.validate.rule import Rule, Severity

MILDER = {
    "RDS-HDR-004": (Severity.NOTE,),
    "RDS-HDR-005": (Severity.WARNING,),
    "RDS-EXT-006": (Severity.NOTE,),
}
"""Other severities that a rule's findings may have."""
_LEVELS = {Severity.ERROR: "ERROR", Severity.WARNING: "WARN", Severity.NOTE: "NOTE"}


def checked_rules() -> list[Rule]:
    """Those rules, in the order of the reference."""
    return [rule for rule in RULES if rule.id in ALONE]


def rules_text() -> str:
    """Tables ``RULES`` and ``experts``, and the preferences."""
    rules = checked_rules()
    areas = [area for area in AREAS if any(rule.area == area for rule in rules)]
    experts = [
        f"[{quoted(f'{rule.id}/{severity.value}')}] = ProtoExpert.new({quoted(_expert_name(rule, severity))}, "
        f"{quoted(rule.title)}, expert.group.PROTOCOL, expert.severity.{_LEVELS[severity]})"
        for rule in rules
        for severity in (rule.severity, *MILDER.get(rule.id, ()))
    ]
    return "\n".join(
        [
            "-- Rules of `rdstool validate`; `rdstool validate --explain RDS-HDR-001` tells more.\n",
            block("RULES", (_rule(rule) for rule in rules)),
            block("experts", experts),
            "local all_experts = {}",
            "for _, item in pairs(experts) do",
            "   table.insert(all_experts, item)",
            "end",
            "rds.experts = all_experts",
            "",
            'rds.prefs.tcp_ports = Pref.range("TCP ports", "16385", "TCP ports that carry RDS", 65535)',
            (
                'rds.prefs.settle = Pref.bool("Settle at the end of the file", false, "For a second pass: wait for '
                'frames that stand late, and show messages behind holes at the end of the file; not for live captures")'
            ),
            *(
                f"rds.prefs.{_group(area)} = Pref.bool({quoted('Check: ' + AREAS[area])}, true, "
                f"{quoted(f'Show what breaks rules {area}-*')})"
                for area in areas
            ),
            "",
        ]
    )


def _rule(rule: Rule) -> str:
    return f"[{quoted(rule.id)}] = {{ severity = {quoted(rule.severity.value)}, group = {quoted(_group(rule.area))} }}"


def _group(area: str) -> str:
    """Name of the preference that switches an area on: ``check_hdr``."""
    return f"check_{area.rpartition('-')[2].lower()}"


def _expert_name(rule: Rule, severity: Severity) -> str:
    """Filter name: ``rds.rule.hdr_005``, with the severity where it is not the rule's usual one."""
    name = f"rds.rule.{rule.id.removeprefix('RDS-').lower().replace('-', '_')}"
    return name if severity is rule.severity else f"{name}.{severity.value}"
