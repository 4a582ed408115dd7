"""Statistics as Rich tables. Numbers with units for people; JSON has the plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.text import Text

from rdstool.capture.counts import passed_over_text
from rdstool.stats.model import CaptureStats, LatencyStats, SizeCount
from rdstool.stats.sheet import Sheet
from rdstool.stats.units import amount, duration, moment, rate, share
from rdstool.words import plural

ROWS = 20
"""Rows of a table of sockets, ports, streams or intervals, where the section was not asked for by name."""


def sections(stats: CaptureStats, names: Sequence[str], *, all_rows: bool) -> Group:
    """The sections of these names that hold anything, as one renderable."""
    limit = None if all_rows else ROWS
    parts: list[RenderableType] = []
    for name in names:
        part = _RENDERERS[name](stats, limit)
        if part is not None:
            parts += [part, Text()]
    return Group(*parts[:-1])


def _table(
    section: str, title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], limit: int | None, count: int
) -> Sheet | None:
    """A table of the first ``limit`` of ``count`` rows, which are made only for it; None without rows."""
    listed = list(islice(rows, limit))
    if not listed:
        return None
    hidden = count - len(listed)
    caption = f"{hidden} more: --section {section}" if hidden else None
    return Sheet(title, caption, headings, listed)


def _capture(stats: CaptureStats, _limit: int | None) -> RenderableType:
    summary = stats.capture
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary.kinds.items())
    passed = passed_over_text(summary.passed_over, summary.passed_over_kinds)
    messages, streams = plural(summary.messages, "message"), plural(summary.streams, "stream")
    lines = [
        f"{plural(summary.frames, 'frame')}, {amount(summary.bytes)}: {summary.tcp_frames} RDS over TCP, "
        f"{summary.ib_frames} InfiniBand"
        + (f"; {summary.tunnelled_frames} in tunnels" if summary.tunnelled_frames else "")
        + (f"; passed over: {passed}" if passed else ""),
        f"{messages} ({kinds or 'none'}), {amount(summary.data_bytes)}, {streams}",
    ]
    if summary.first_time is not None:
        lines.append(f"{moment(summary.first_time)} to {moment(summary.last_time)} UTC, {duration(summary.duration)}")
    if summary.sizes:
        lines.append(f"sizes of data messages: {_sizes(summary.sizes)}")
    lines += [f"note: {note}" for note in summary.notes]
    return Text("\n".join(["Capture", *lines]))


def _sizes(sizes: list[SizeCount]) -> str:
    return ", ".join(
        f"{part.messages} of {part.low if part.low == part.high else f'{part.low}-{part.high}'}" for part in sizes
    )


def _latency(latency: LatencyStats) -> tuple[str, ...]:
    others = sum(latency.not_measured.values())
    measured = f"{latency.measured}/{latency.measured + others}" if others else str(latency.measured)
    return (measured, *(duration(value) for value in (latency.p50, latency.p90, latency.p99, latency.maximum)))


_LATENCY = (">acked", ">p50", ">p90", ">p99", ">max")


def _connections(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    table = _table(
        "connections",
        "Connections",
        ("a", "b", "over", ">paths", ">streams", ">a to b", ">b to a", ">bytes a to b", ">bytes b to a", ">reconnects",
         ">restarts", ">seen"),
        (
            (
                one.a, one.b, one.transport, _path(one.npaths), str(one.streams),
                str(one.a_to_b_messages), str(one.b_to_a_messages), amount(one.a_to_b_bytes), amount(one.b_to_a_bytes),
                str(one.reconnects), str(one.restarts), share(one.coverage),
            )
            for one in stats.connections
        ),
        limit,
        len(stats.connections),
    )  # fmt: skip
    ways = [way for one in islice(stats.connections, limit) for way in one.balance if len(way.paths) > 1]
    balance = _table(
        "connections",
        "Balance over paths",
        ("from", "to", ">imbalance", "share of bytes by path"),
        (
            (
                way.src, way.dst, "-" if way.imbalance is None else f"{way.imbalance:.2f}",
                "  ".join(f"{_path(part.path)}: {part.share * 100:.1f} %" for part in way.paths if part.messages),
            )
            for way in ways
        ),
        None,
        len(ways),
    )  # fmt: skip
    return table if table is None or balance is None else Group(table, Text(), balance)


def _path(path: int | None) -> str:
    return "-" if path is None else str(path)


def _sides(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "sides",
        "Sides",
        ("address", ">NPATHS", "GEN_NUM", "SPORT_IDX", ">probes", "kernel by its probes"),
        (
            (
                side.address, _path(side.npaths),
                "-" if side.gen_num is None else f"{side.gen_num:#010x}",
                {None: "-", True: "yes", False: "no"}[side.sport_idx], str(side.probes), side.kernel,
            )
            for side in stats.sides
        ),
        limit,
        len(stats.sides),
    )  # fmt: skip


def _streams(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "streams",
        "Streams and their paths",
        (">stream", "a", "b", ">path", ">sure", "because", ">messages", ">seen a to b", ">seen b to a", ">gaps"),
        (
            (
                str(one.stream), f"{one.a}:{one.a_port}", f"{one.b}:{one.b_port}", _path(one.path),
                "-" if one.path is None else f"{one.confidence:.2f}", one.basis, str(one.messages),
                share(one.a_to_b.coverage), share(one.b_to_a.coverage), str(one.a_to_b.gaps + one.b_to_a.gaps),
            )
            for one in stats.streams
        ),
        limit,
        len(stats.streams),
    )  # fmt: skip


def _paths(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "paths",
        "Paths",
        ("from", "to", ">path", ">data", ">bytes", ">rate", ">flagged", ">again", *_LATENCY, ">in flight", ">mean",
         ">seen"),
        (
            (
                one.src, one.dst, _path(one.path), str(one.data_messages), amount(one.data_bytes), rate(one.byte_rate),
                str(one.flagged_retransmitted),
                amount(one.seen.retransmitted) if one.seen.unit == "bytes" else f"{one.seen.retransmitted} pkt",
                *_latency(one.latency), amount(one.in_flight.max_bytes), amount(one.in_flight.mean_bytes),
                share(one.seen.coverage),
            )
            for one in stats.paths
        ),
        limit,
        len(stats.paths),
    )  # fmt: skip


def _sockets(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    weights = [one.sent_bytes + one.received_bytes for one in stats.sockets]
    ordered = sorted(range(len(weights)), key=lambda place: -weights[place])
    return _table(
        "sockets",
        "Sockets",
        ("socket", ">sent", ">bytes", ">rate", ">received", ">bytes", *_LATENCY, ">in flight", ">mean", ">seen"),
        (
            (
                f"{one.address}:{one.port}", str(one.sent_messages), amount(one.sent_bytes), rate(one.send_rate),
                str(one.received_messages), amount(one.received_bytes), *_latency(one.latency),
                amount(one.in_flight.max_bytes), amount(one.in_flight.mean_bytes), share(one.coverage),
            )
            for one in (stats.sockets[place] for place in ordered)
        ),
        limit,
        len(stats.sockets),
    )  # fmt: skip


def _ports(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    ordered = sorted(stats.ports, key=lambda one: -(one.sent_bytes + one.received_bytes))
    return _table(
        "ports",
        "Ports",
        (">port", ">sockets", ">sent", ">bytes", ">received", ">bytes", *_LATENCY, ">in flight", ">seen"),
        (
            (
                str(one.port), str(one.sockets), str(one.sent_messages), amount(one.sent_bytes),
                str(one.received_messages), amount(one.received_bytes), *_latency(one.latency),
                amount(one.max_in_flight), share(one.coverage),
            )
            for one in ordered
        ),
        limit,
        len(stats.ports),
    )  # fmt: skip


def _pings(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "pings",
        "Pings and probes",
        ("from", "to", ">path", ">sent", ">answered", ">min", ">mean", ">p50", ">p99", ">max"),
        (
            (
                one.src, one.dst, _path(one.path), str(one.sent), str(one.answered),
                *(duration(value) for value in (one.round_trip.minimum, one.round_trip.mean, one.round_trip.p50,
                                                one.round_trip.p99, one.round_trip.maximum)),
            )
            for one in stats.pings
        ),
        limit,
        len(stats.pings),
    )  # fmt: skip


def _congestion(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "congestion",
        "Congestion of ports",
        ("port", "for", "from", "to", ">frames", ">lasted", ">still sent", ">held back, at most", "certain"),
        (
            (
                f"{one.address}:{one.port}", one.peer, moment(one.begin)[11:], moment(one.end)[11:] or "end of capture",
                f"{one.begin_frame}-{'' if one.end_frame is None else one.end_frame}", duration(one.duration),
                str(one.sent_during), str(one.held_back_at_most), "yes" if one.certain else "no, hole in the capture",
            )
            for one in stats.congestion
        ),
        limit,
        len(stats.congestion),
    )  # fmt: skip


def _reconnects(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "reconnects",
        "Reconnects",
        ("a", "b", ">path", ">stream", ">after", ">frame", "kind", "because"),
        (
            (
                one.a, one.b, _path(one.path), str(one.stream), str(one.before), str(one.frame),
                f"restart of {' and '.join(one.restarted)}" if one.restarted else one.kind, one.basis,
            )
            for one in stats.reconnects
        ),
        limit,
        len(stats.reconnects),
    )  # fmt: skip


def _rdma(stats: CaptureStats, limit: int | None) -> RenderableType | None:
    return _table(
        "rdma",
        "RDMA",
        ("requester", "responder", "operation", ">number", ">bytes", ">seen", ">unanswered", ">failed"),
        (
            (
                one.requester, one.responder, one.kind, str(one.operations), amount(one.bytes), amount(one.seen),
                str(one.unanswered), str(one.failed),
            )
            for one in stats.rdma
        ),
        limit,
        len(stats.rdma),
    )  # fmt: skip


_RENDERERS: dict[str, Callable[[CaptureStats, int | None], RenderableType | None]] = {
    "capture": _capture,
    "connections": _connections,
    "sides": _sides,
    "streams": _streams,
    "paths": _paths,
    "sockets": _sockets,
    "ports": _ports,
    "pings": _pings,
    "congestion": _congestion,
    "reconnects": _reconnects,
    "rdma": _rdma,
}
