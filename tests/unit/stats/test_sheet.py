"""Tables of statistics on terminals of any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rdstool.stats.sheet import Sheet


@pytest.mark.parametrize("width", [40, 80, 132])
def test_a_sheet_that_is_too_wide_goes_on_below_itself(width: int) -> None:
    headings = ("from", "to", ">messages", ">bytes", "because", ">rate")
    rows = [("10.0.0.1", "10.0.0.2", "123456", "99 MB", "the TCP source port tells it, SPORT_IDX", "1 MB/s")] * 2
    console = Console(width=width, file=io.StringIO(), highlight=False)
    with console.capture() as captured:
        console.print(Sheet("Paths", "3 more", headings, rows))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for cell in ("123456", "99 MB", "1 MB/s", "3 more"):
        assert cell in text
    # What names a row stands once, and its number again in each part.
    assert text.count("10.0.0.2") == len(rows)
    parts = sum(line.split()[:1] == ["row"] for line in lines)
    assert parts == (0 if width == 132 else sum(line.split()[:1] == ["2"] for line in lines))
    assert (parts == 0) == (width == 132)


def test_a_row_that_its_first_column_names_needs_no_number() -> None:
    console = Console(width=30, file=io.StringIO(), highlight=False)
    with console.capture() as captured:
        console.print(
            Sheet("Sockets", None, ("socket", ">sent", ">received"), [("10.0.0.1:4000", "123456", "1234567")])
        )
    assert captured.get().count("10.0.0.1:4000") == 2
    assert "row" not in captured.get()
