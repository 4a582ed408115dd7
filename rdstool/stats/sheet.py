"""A table for terminals of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

BETWEEN, EDGES = 3, 2
"""Characters between two columns, and left and right of a table."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table that goes on below itself where it is too wide.

    Each part begins with what names a row: its first column, or where that takes several, a number.
    """

    title: str
    caption: str | None
    headings: Sequence[str]
    """Those of right-aligned columns begin with ``>``."""
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What Rich asks for."""
        if self._names > 1 and self._width(range(len(self.headings))) > options.max_width:
            yield from self._numbered().__rich_console__(console, options)
            return
        folds = self._folds(options.max_width)
        for number, columns in enumerate(folds):
            last = number == len(folds) - 1
            table = Table(
                title=self.title if not number else None,
                caption=self.caption if last else None,
                title_justify="left",
                caption_justify="left",
                title_style="bold",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
            )
            alone = len(folds) > 1 and self._width(columns) > options.max_width
            for column in columns:
                heading = self.headings[column]
                justify: Literal["right", "left"] = "right" if heading.startswith(">") else "left"
                table.add_column(heading.lstrip(">"), justify=justify, no_wrap=not alone, overflow="fold")
            for row in self.rows:
                table.add_row(*(Text(row[column]) for column in columns))
            yield table

    @property
    def _names(self) -> int:
        """Columns that name a row: those in front of the first number, or that one."""
        return next((at for at, heading in enumerate(self.headings) if heading.startswith(">")), 0) or 1

    def _numbered(self) -> Sheet:
        """The same with numbers in front."""
        rows = [(str(number), *row) for number, row in enumerate(self.rows, 1)]
        return Sheet(self.title, self.caption, (">row", *self.headings), rows)

    def _folds(self, width: int) -> list[list[int]]:
        """Which columns stand beside each other, where a line has ``width`` characters."""
        folds = [[0]]
        for column in range(1, len(self.headings)):
            if len(folds[-1]) > 1 and self._width([*folds[-1], column]) > width:
                folds.append([0])
            folds[-1].append(column)
        return folds

    def _width(self, columns: Sequence[int]) -> int:
        cells = [max(cell_len(self.headings[c].lstrip(">")), *(cell_len(row[c]) for row in self.rows)) for c in columns]
        return sum(cells) + BETWEEN * (len(cells) - 1) + EDGES
