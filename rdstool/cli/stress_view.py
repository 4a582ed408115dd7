"""What ``rdstool stress`` shows: a live table on a terminal, the lines of rds-stress elsewhere, or JSON lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from rdstool.cli.output import Results, json_line

if TYPE_CHECKING:
    from rich.table import Table

    from rdstool.stress.parameters import Parameters
    from rdstool.stress.watch import Interval, Summary

SHOWN_INTERVALS = 15
"""Seconds that the live table goes back."""
BAR_WIDTH = 40
"""Characters of the longest bar of a histogram."""
_MIB = 1 << 20


def described(parameters: Parameters) -> str:
    """What a run does, in one line."""
    words = [f"{parameters.tasks} tasks", f"depth {parameters.depth}"]
    words += [f"{parameters.request_bytes} bytes out", f"{parameters.ack_bytes} back"]
    words += [word for word, so in (("one way", parameters.simplex), ("verified", parameters.verify)) if so]
    rdma = parameters.rdma
    if rdma is not None:
        words.append(f"RDMA of {rdma.vector} x {rdma.size} bytes ({rdma.mode.name.lower().replace('_', ' ')})")
        choices = ("use once", rdma.use_once), ("get MR", rdma.use_get_mr), ("fence", rdma.fence), ("cache", rdma.cache)
        words += [word for word, so in choices if so]
    return ", ".join(words)


def histogram(summary: Summary, *, bar: str = "#") -> Iterator[str]:
    """Lines with the number of round trips between powers of two."""
    yield f"{'round trip us':>19} {'count':>10}"
    most = max((each.count for each in summary.round_trips), default=0)
    for each in summary.round_trips:
        long = round(BAR_WIDTH * each.count / most)
        yield f"{each.from_us:8} - {each.below_us:8} {each.count:10} {bar * long}".rstrip()


class View(Protocol):
    """Shows a run as it goes on."""

    def shown(self, title: str, parameters: Parameters) -> AbstractContextManager[None]:
        """A context to hold around the run."""
        ...

    def interval(self, interval: Interval) -> None:
        """Show another second."""
        ...

    def summary(self, summary: Summary) -> None:
        """Show the whole run."""
        ...


class JsonView:
    """One object a second, and one for the summary."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def shown(self, _title: str, _parameters: Parameters) -> AbstractContextManager[None]:
        """Show nothing yet."""
        return nullcontext()

    def interval(self, interval: Interval) -> None:
        """Write an object."""
        self._results.write(json_line({"event": "interval", **_plain(interval)}))

    def summary(self, summary: Summary) -> None:
        """Write the last object."""
        times = {"p50": summary.p50_us, "p99": summary.p99_us, "longest": summary.longest_us}
        more = {
            **{f"round_trip_{name}_us": us if us is None else round(us, 1) for name, us in times.items()},
            "round_trips": [asdict(each) for each in summary.round_trips],
        }
        self._results.write(json_line({"event": "summary", **_plain(summary.interval), **more}))


class PlainView:
    """The lines of rds-stress, for programs that read them. RDMA has the columns mbi (to us) and mbo.

    As there, a duration that was not measured is 0.
    """

    def __init__(self, results: Results, *, histogram: bool = False) -> None:
        self._results = results
        self._any = False
        self._histogram = histogram

    def shown(self, _title: str, _parameters: Parameters) -> AbstractContextManager[None]:
        """Write the names of the columns."""
        names = ("tx/s", "rx/s"), ("tx+rx K/s", "mbi K/s", "mbo K/s"), ("tx us/c", "rtt us", "cpu %")
        (tx, rx), rates, (call, trip, cpu) = names
        wide = " ".join(f"{name:>10}" for name in rates)
        self._results.write(f"tsks {tx:>6} {rx:>6} {wide} {call:>7} {trip:>8} {cpu:>5}\n")
        return nullcontext()

    def interval(self, interval: Interval) -> None:
        """Write a line."""
        self._any = True
        self._results.write(self._line(interval) + "\n")

    def summary(self, summary: Summary) -> None:
        """Write the last line, below a rule."""
        if self._any:
            self._results.write("-" * 45 + "\n")
        self._results.write(f"{self._line(summary.interval)}  (average)\n")
        if self._histogram:
            self._results.write("\n" + "\n".join(histogram(summary)) + "\n")

    @staticmethod
    def _line(interval: Interval) -> str:
        seconds = interval.seconds or 1.0
        kilobytes = (interval.bytes_sent + interval.bytes_received) / seconds / 1024
        moved = [count / seconds / 1024 for count in (interval.rdma_bytes_in, interval.rdma_bytes_out)]
        return (
            f"{interval.tasks:4} {interval.requests_sent / seconds:6.0f} {interval.requests_received / seconds:6.0f} "
            f"{kilobytes:10.2f} {moved[0]:10.2f} {moved[1]:10.2f} {interval.send_us or 0:7.2f} "
            f"{interval.round_trip_us or 0:8.2f} {interval.cpu_percent:5.2f}"
        )


class LiveView:
    """A table that grows by a row each second."""

    def __init__(self, results: Results, *, histogram: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415

        self._console = Console(no_color=not results.colour, safe_box=not results.unicode, highlight=False)
        self._rows: deque[Interval] = deque(maxlen=SHOWN_INTERVALS)
        self._title = ""
        self._bar = "" if not histogram else "█" if results.unicode else "#"
        self._live: Any = None

    @contextmanager
    def shown(self, title: str, parameters: Parameters) -> Iterator[None]:
        """Show the table, and leave it standing at the end."""
        from rich.live import Live  # noqa: PLC0415

        self._title = f"{title}: {described(parameters)}"
        with Live(self._table(None), console=self._console, auto_refresh=False) as self._live:
            yield

    def interval(self, interval: Interval) -> None:
        """Show another row."""
        self._rows.append(interval)
        self._live.update(self._table(None), refresh=True)

    def summary(self, summary: Summary) -> None:
        """The whole run as the last row, and how round trips are spread."""
        self._rows.clear()
        self._console.print(self._table(summary.interval))
        if summary.p50_us is not None:
            self._console.print(
                f"round trips: half within {summary.p50_us:,.0f} us, 99 % within {summary.p99_us:,.0f} us, "
                f"the longest {summary.longest_us:,.0f} us"
            )
        if self._bar:
            self._console.print(*histogram(summary, bar=self._bar), sep="\n")

    def _table(self, whole: Interval | None) -> Table:
        from rich.table import Table  # noqa: PLC0415

        table = Table(title=self._title if whole is None else "average", title_justify="left", title_style="bold")
        amounts = "requests/s out", "in", "acks/s out", "in", "MiB/s out", "in", "RDMA MiB/s out", "in"
        for name in (*amounts, "us/send", "us round trip", "cpu %"):
            table.add_column(name, justify="right")
        for row in [*self._rows, *([whole] if whole is not None else [])]:
            seconds = row.seconds or 1.0
            moved = row.bytes_sent, row.bytes_received, row.rdma_bytes_out, row.rdma_bytes_in
            table.add_row(
                *(
                    f"{count / seconds:,.0f}"
                    for count in (row.requests_sent, row.requests_received, row.acks_sent, row.acks_received)
                ),
                *(f"{count / seconds / _MIB:,.2f}" for count in moved),
                *("-" if us is None else f"{us:,.1f}" for us in (row.send_us, row.round_trip_us)),
                f"{row.cpu_percent:.0f}",
            )
        return table


def _plain(interval: Interval) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(interval).items()}
