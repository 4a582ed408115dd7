"""Scripts of captures by the rule that they break."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Script = TypeVar("Script")


class Catalogue(dict[str, Callable[[], Script]]):
    """What makes each script, by the id of its rule."""

    def breaks(self, rule: str) -> Callable[[Callable[[], Script]], Callable[[], Script]]:
        """Enter a script that breaks this rule and no other."""

        def enter(make: Callable[[], Script]) -> Callable[[], Script]:
            self[rule] = make
            return make

        return enter
