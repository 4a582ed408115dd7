"""How often Python searches for objects that are of no more use and refer to each other.

A search looks at all objects there are. What a command has to do decides whether that is worth its time.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
"""Python's own values, as long as nobody has changed them."""
_SELDOM = 200_000
"""Objects made between two searches."""


def search_seldom() -> None:
    """For commands that read: modules, and captures with very many streams, are a great many objects without cycles."""
    gc.set_threshold(_SELDOM)


def search_as_usual() -> None:
    """For nodes: peers come and go for as long as they run, and what is forgotten of them refers to itself."""
    gc.set_threshold(*_USUAL)


def search_no_more() -> None:
    """For the end, when all goes with the process: a search would be a sixth of a short command's time."""
    gc.freeze()
