"""Durations as people write them, on the command line and in scenarios: a number and its unit."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", re.ASCII)
_UNIT_S = {
    **dict.fromkeys(("us", "usec"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec"), 1.0),
    **dict.fromkeys(("m", "min"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
}


def seconds_of(text: str) -> float:
    """The seconds in ``1``, ``0.5s``, ``20 ms``, ``100us``, ``2m``; without a unit they are seconds.

    Raises ``ValueError`` where ``text`` is no duration.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNIT_S:
        raise ValueError(f"{text!r} is not a duration")
    return float(found[1]) * _UNIT_S[found[2]]
