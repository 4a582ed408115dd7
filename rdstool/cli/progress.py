"""A progress bar on stderr, for long inputs on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG_INPUT_BYTES = 32 << 20
"""Inputs shorter than this are done before a bar could be read."""


@contextmanager
def progress(total: int | None, *, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the number of bytes done so far, out of ``total``.

    It shows nothing where stderr is no terminal, the input is short or its size not known, or where
    stdout is a terminal too: results and bar would fight for it.
    """
    shown = (
        wanted and total is not None and total >= LONG_INPUT_BYTES and sys.stderr.isatty() and not sys.stdout.isatty()
    )
    if not shown:
        yield lambda done: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
