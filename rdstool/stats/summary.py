"""Writes down what was found in a capture, section by section."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from rdstool.capture.counts import FrameCounts
from rdstool.capture.streams import Stream, address_text
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats.acks import OUTCOMES, Outcome
from rdstool.stats.assemble import (
    Span,
    at_second,
    count_of,
    coverage_of,
    early_clocks,
    flight_of,
    kinds_of,
    lane_latency,
    latency_of,
    latency_with,
    path_or_none,
    seen_of,
    sizes_of,
    sum_of,
)
from rdstool.stats.connections import connections_of
from rdstool.stats.findings import Findings
from rdstool.stats.groups import LANE_HISTOGRAMS, OTHERS
from rdstool.stats.model import (
    CaptureStats,
    CaptureSummary,
    CongestionStats,
    PathStats,
    PingStats,
    PortStats,
    RdmaStats,
    ReconnectStats,
    Records,
    SideStats,
    SocketStats,
    StreamStats,
)
from rdstool.stats.reconnects import find_reconnects
from rdstool.stats.ways import Ways


def summarise(found: Findings, frames: FrameCounts) -> CaptureStats:
    """Make all sections."""
    known = len(found.lanes)
    spoke = found.traffic.all.messages[:known] > 0
    seen = np.fromiter((coverage_of(found.streams, lane).seen > 0 for lane in range(known)), np.bool_, known)
    seen[: len(spoke)] |= spoke
    ways = Ways(found.streams.streams[: known // 2], seen)
    again = list(find_reconnects(found.streams, found.numbering, found.handshakes))
    coverage = _coverage_by_address(found)
    sockets = Records(len(found.sockets.known), lambda place: _socket(found, place + 1, coverage))
    return CaptureStats(
        capture=_capture(found, frames),
        connections=connections_of(found, ways, again),
        sides=[
            SideStats(
                address=address_text(side.address),
                kernel=side.kernel,
                npaths=side.announced.npaths if side.announced else None,
                gen_num=side.announced.gen_num if side.announced else None,
                sport_idx=side.announced.sport_idx if side.announced else None,
                probes=side.probes,
            )
            for side in found.handshakes.sides.values()
        ],
        streams=Records(known // 2, lambda number: _stream(found, found.streams[number])),
        paths=Records(len(ways.paths), lambda place: _path(found, ways.paths[place])),
        sockets=sockets,
        ports=list(_ports(found, sockets)),
        pings=_pings(found, ways),
        congestion=list(_congestion(found)),
        reconnects=[
            ReconnectStats(
                a=address_text(one.stream.address_pair[0]),
                b=address_text(one.stream.address_pair[1]),
                path=path_or_none(one.stream.path),
                stream=one.stream.number,
                before=one.before.number,
                frame=one.stream.first_frame,
                time=Span.of([(found.traffic.all, _lanes_of(one.stream))]).begin,
                kind=one.kind,
                restarted=[address_text(address) for address in one.restarted],
                basis=one.basis,
            )
            for one in again
        ],
        rdma=[
            RdmaStats(
                requester=address_text(volume.requester),
                responder=address_text(volume.responder),
                kind=volume.kind.value,
                operations=volume.operations,
                bytes=volume.bytes,
                seen=volume.seen,
                unanswered=volume.unanswered,
                failed=volume.failed,
            )
            for volume in found.rdma.volumes
        ],
    )


def _lanes_of(stream: Stream) -> tuple[int, int]:
    return 2 * stream.number, 2 * stream.number + 1


def _capture(found: Findings, frames: FrameCounts) -> CaptureSummary:
    traffic = found.traffic
    everything = range(len(found.lanes))
    span = Span.of([(traffic.all, everything)])
    return CaptureSummary(
        frames=frames.frames,
        bytes=frames.bytes,
        tcp_frames=frames.tcp,
        ib_frames=frames.ib,
        tunnelled_frames=frames.tunnelled,
        passed_over=frames.reasons(),
        passed_over_kinds=frames.kinds(),
        streams=len(found.streams),
        messages=count_of(traffic.all, everything).messages,
        kinds=kinds_of(traffic.kinds.sum(axis=0)),
        data_bytes=count_of(traffic.data, everything).bytes,
        first_time=span.begin,
        last_time=span.end,
        duration=span.seconds,
        sizes=sizes_of(traffic.sizes, range(LANE_HISTOGRAMS + 1)),
        sockets_beyond_limit=_beyond_limit(found),
        bitmaps=found.congestion.bitmaps,
        bitmaps_unusable=found.congestion.unusable,
        notes=list(_notes(found)),
    )


def _beyond_limit(found: Findings) -> int:
    """Data and pings whose sender has no number: all others are in the tallies of sockets."""
    kinds = found.traffic.kinds.sum(axis=0)
    numbered = count_of(found.traffic.sent, range(1, len(found.traffic.sent.messages))).messages
    return int(kinds[MessageKind.DATA] + kinds[MessageKind.PING]) - numbered


def _notes(found: Findings) -> Iterator[str]:
    early = early_clocks(found.traffic)
    if len(early):
        yield (
            f"{len(early)} directions of streams have timestamps that count from boot, not from 1970; "
            "they are left out of times and durations that span several directions"
        )
    doubtful = int(found.acks.doubtful.sum())
    if doubtful:
        yield f"the clocks of the two directions of {doubtful} streams are not comparable: no latencies for them"
    if len(found.lanes) > LANE_HISTOGRAMS:
        yield f"distributions cover the first {LANE_HISTOGRAMS // 2} streams; counts cover all"
    if found.congestion.not_kept:
        yield f"{found.congestion.not_kept} congested intervals beyond the limit are not listed"
    if found.streams.passed_over:
        yield f"only the first {len(found.streams):,} streams were followed"


def _coverage_by_address(found: Findings) -> dict[bytes, float | None]:
    """Share that was seen of what each address sent; bytes and packets of several streams are averaged by size."""
    by_address = defaultdict(list)
    for lane in range(len(found.lanes)):
        by_address[found.streams[lane >> 1].ends(lane & 1)[0].address].append(coverage_of(found.streams, lane))
    return {address: seen_of(parts, Transport.TCP).coverage for address, parts in by_address.items()}


def _stream(found: Findings, stream: Stream) -> StreamStats:
    lanes = _lanes_of(stream)
    forward, back = (seen_of((coverage,), stream.transport) for coverage in stream.coverage)
    doubtful = stream.number < len(found.acks.doubtful) and bool(found.acks.doubtful[stream.number])
    return StreamStats(
        stream=stream.number,
        transport=stream.transport.label,
        a=stream.a.host,
        a_port=stream.a.port,
        b=stream.b.host,
        b_port=stream.b.port,
        from_start=stream.from_start,
        path=path_or_none(stream.path),
        confidence=stream.path_confidence,
        basis=stream.path_basis if stream.transport is Transport.TCP else "InfiniBand has no paths",
        first_frame=stream.first_frame,
        messages=count_of(found.traffic.all, lanes).messages,
        clocks_comparable=not doubtful,
        a_to_b=forward,
        b_to_a=back,
    )


def _path(found: Findings, lanes: list[int]) -> PathStats:
    stream = found.streams[lanes[0] >> 1]
    source, destination = stream.ends(lanes[0] & 1)
    transport, path = stream.transport, stream.path
    traffic = found.traffic
    messages = count_of(traffic.all, lanes).messages
    data_messages, data_bytes = count_of(traffic.data, lanes)
    span = Span.of([(traffic.all, lanes)])
    rows = [row for lane in lanes if (row := found.lanes.histogram.item(lane)) != OTHERS]
    known = [lane for lane in lanes if lane < len(traffic.kinds)]
    return PathStats(
        src=source.host,
        dst=destination.host,
        transport=transport.label,
        path=path_or_none(path),
        streams=[lane >> 1 for lane in lanes],
        messages=messages,
        data_messages=data_messages,
        data_bytes=data_bytes,
        kinds=kinds_of(traffic.kinds[known[0]] if len(known) == 1 else traffic.kinds[known].sum(axis=0)),
        flagged_retransmitted=sum_of(traffic.flagged, lanes),
        incomplete=sum_of(traffic.incomplete, lanes),
        first_time=span.begin,
        last_time=span.end,
        message_rate=span.rate(messages),
        byte_rate=span.rate(data_bytes),
        sizes=sizes_of(traffic.sizes, rows),
        latency=lane_latency(found.acks, found.lanes, lanes),
        in_flight=flight_of(found.acks.lane_flight, lanes),
        seen=seen_of((coverage_of(found.streams, lane) for lane in lanes), transport),
    )


def _socket(found: Findings, number: int, coverage: dict[bytes, float | None]) -> SocketStats:
    socket = found.sockets.known[number - 1]
    sent, received, acks = found.traffic.sent, found.traffic.received, found.acks
    sent_messages, sent_bytes = count_of(sent, (number,))
    received_messages, received_bytes = count_of(received, (number,))
    span = Span.of([(sent, (number,)), (received, (number,))])
    known = number < len(acks.socket_outcomes)
    outcomes = acks.socket_outcomes[number].tolist() if known else [0] * OUTCOMES
    return SocketStats(
        address=socket.host,
        port=socket.port,
        sent_messages=sent_messages,
        sent_bytes=sent_bytes,
        received_messages=received_messages,
        received_bytes=received_bytes,
        first_time=span.begin,
        last_time=span.end,
        send_rate=Span.of([(sent, (number,))]).rate(sent_bytes),
        latency=latency_of(acks.socket_latency.distribution((number,)), outcomes),
        in_flight=flight_of(acks.socket_flight, (number,)),
        coverage=coverage.get(socket.address),
    )


def _ports(found: Findings, sockets: Sequence[SocketStats]) -> Iterator[PortStats]:
    by_port = defaultdict(list)
    for number, socket in enumerate(sockets, 1):
        by_port[socket.port].append((number, socket))
    for port, members in sorted(by_port.items()):
        reasons: dict[str, int] = defaultdict(int)
        for _, socket in members:
            for reason, count in socket.latency.not_measured.items():
                reasons[reason] += count
        shares = [socket.coverage for _, socket in members if socket.coverage is not None]
        yield PortStats(
            port=port,
            sockets=len(members),
            sent_messages=sum(socket.sent_messages for _, socket in members),
            sent_bytes=sum(socket.sent_bytes for _, socket in members),
            received_messages=sum(socket.received_messages for _, socket in members),
            received_bytes=sum(socket.received_bytes for _, socket in members),
            latency=latency_with(
                found.acks.socket_latency.distribution([number for number, _ in members]), dict(reasons)
            ),
            max_in_flight=max(socket.in_flight.max_bytes for _, socket in members),
            coverage=min(shares) if shares else None,
        )


def _pings(found: Findings, ways: Ways) -> Records[PingStats]:
    pings = found.pings
    asking = [lanes for lanes in ways.paths if not pings.sent.keys().isdisjoint(lanes)]

    def make(place: int) -> PingStats:
        lanes = asking[place]
        sent = sum(pings.sent.get(lane, 0) for lane in lanes)
        answered = sum(pings.answered.get(lane, 0) for lane in lanes)
        clock = sum(pings.clock.get(lane, 0) for lane in lanes)
        sound = [lane for lane in lanes if not pings.clock.get(lane) and not found.acks.doubtful[lane >> 1]]
        rows = [int(found.lanes.histogram[lane]) for lane in sound if found.lanes.histogram[lane] != OTHERS]
        stream = found.streams[lanes[0] >> 1]
        source, destination = stream.ends(lanes[0] & 1)
        reasons = {"no pong seen": sent - answered, Outcome.CLOCK.words: clock}
        return PingStats(
            src=source.host,
            dst=destination.host,
            transport=stream.transport.label,
            path=path_or_none(stream.path),
            sent=sent,
            answered=answered,
            round_trip=latency_with(
                pings.round_trips.distribution(rows), {reason: count for reason, count in reasons.items() if count}
            ),
        )

    return Records(len(asking), make)


def _congestion(found: Findings) -> Iterator[CongestionStats]:
    for interval in found.congestion.intervals:
        end = interval.end
        duration = None if end is None else (end - interval.begin) / 1e9
        yield CongestionStats(
            address=address_text(interval.owner),
            port=interval.port,
            peer=address_text(interval.peer),
            begin_frame=interval.begin_frame,
            begin=at_second(interval.begin),
            end_frame=interval.end_frame,
            end=None if end is None else at_second(end),
            duration=duration if duration is None or duration >= 0 else None,
            sent_during=interval.sent_during,
            held_back_at_most=interval.sent_after,
            certain=not interval.across_gap,
        )
