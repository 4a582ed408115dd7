"""Which rules run: ``--select`` and ``--ignore`` as ruff has them, by the longest prefix that matches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from rdstool.errors import UsageError
from rdstool.validate.rule import Rule

ALL = "ALL"


def names(values: Iterable[str]) -> list[str]:
    """The names in comma-separated lists, in capitals, each once."""
    return list(dict.fromkeys(name for value in values for name in re.split(r"[,\s]+", value.upper()) if name))


def prefixes(values: Iterable[str], rules: Sequence[Rule]) -> tuple[str, ...]:
    """Split comma-separated selections. Raises ``UsageError`` for one that no rule begins with."""
    found = names(values)
    for name in found:
        if name != ALL and not any(_matches(rule.id, name) for rule in rules):
            known = [rule.id for rule in rules] + sorted({rule.area for rule in rules})
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; `rdstool validate --rules` lists them"
            raise UsageError(f'no rule begins with "{name}"{hint}')
    return tuple(found)


def choose(rules: Sequence[Rule], select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """The rules that run. The longer of two prefixes wins; of two equal ones, ``ignore``.

    Without ``select``, and with ``ALL``, rules that need every payload stay out: they are named to run.
    """
    wanted = prefixes(select, rules) or (ALL,)
    unwanted = prefixes(ignore, rules)
    return tuple(rule for rule in rules if _weight(rule, wanted) > _weight(rule, unwanted))


def _weight(rule: Rule, given: Sequence[str]) -> int:
    """Length of the longest prefix that names the rule; 0 for ``ALL``, -1 for none."""
    weights = [len(name) for name in given if name != ALL and _matches(rule.id, name)]
    if ALL in given and not (rule.on_request and not weights):
        weights.append(0)
    return max(weights, default=-1)


def _matches(rule: str, prefix: str) -> bool:
    return rule.startswith(prefix)
