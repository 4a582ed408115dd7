"""Address pairs: what went between them, over which paths, and how often they connected again."""

from __future__ import annotations

from collections import Counter, defaultdict

from rdstool.capture.streams import address_text
from rdstool.protocol.kinds import Transport
from rdstool.stats.assemble import Count, Span, agreed_paths, count_of, path_or_none, seen_of
from rdstool.stats.findings import Findings
from rdstool.stats.model import Balance, ConnectionStats, PathShare, Records
from rdstool.stats.reconnects import Reconnect
from rdstool.stats.ways import Ways


def connections_of(found: Findings, ways: Ways, again: list[Reconnect]) -> Records[ConnectionStats]:
    """The connections of a capture, in the order in which they began; ``again`` are all its reconnects."""
    reconnects: dict[int, list[Reconnect]] = defaultdict(list)
    for one in again:
        reconnects[one.stream.pair].append(one)
    announced = Counter(found.streams[restart.stream].pair for restart in found.handshakes.restarts)

    def make(pair: int) -> ConnectionStats:
        streams = [found.streams[number] for number in ways.connections[pair]]
        first = streams[0]
        (a, b), transport = first.address_pair, first.transport
        sides = [side for address in (a, b) if (side := found.handshakes.sides.get(address)) and side.announced]
        npaths = agreed_paths(side.announced.npaths for side in sides if side.announced) if sides else None
        npaths = npaths if transport is Transport.TCP else None
        flipped = int(first.a.address != a)
        both = [ways.way_of(2 * first.number + (flipped ^ way)) for way in (0, 1)]
        span = Span.of([(found.traffic.all, lanes) for way in both for lanes in way.values()])
        there_by_path, here_by_path = (
            {path: count_of(found.traffic.data, lanes) for path, lanes in sorted(way.items())} for way in both
        )
        balances = (_balance(a, b, there_by_path, npaths), _balance(b, a, here_by_path, npaths))
        there, here = _total(there_by_path if a != b else {}), _total(here_by_path)
        mine = reconnects.get(pair, [])
        return ConnectionStats(
            a=address_text(a),
            b=address_text(b),
            transport=transport.label,
            npaths=npaths,
            streams=len(streams),
            messages=there.messages + here.messages,
            bytes=there.bytes + here.bytes,
            a_to_b_messages=there.messages,
            a_to_b_bytes=there.bytes,
            b_to_a_messages=here.messages,
            b_to_a_bytes=here.bytes,
            reconnects=len(mine),
            restarts=announced[pair] or _restarts(mine),
            first_time=span.begin,
            last_time=span.end,
            coverage=seen_of((coverage for stream in streams for coverage in stream.coverage), transport).coverage,
            balance=[balance for balance in balances if balance is not None],
        )

    return Records(len(ways.connections), make)


def _restarts(again: list[Reconnect]) -> int:
    """Restarts that the connections show. A restart makes all paths connect again, so paths are not added up."""
    by_path: dict[int, int] = defaultdict(int)
    for one in again:
        by_path[one.stream.path] += one.kind == "restart"
    return max(by_path.values(), default=0)


def _total(counts: dict[int, Count]) -> Count:
    return Count(sum(count.messages for count in counts.values()), sum(count.bytes for count in counts.values()))


def _balance(source: bytes, destination: bytes, counts: dict[int, Count], npaths: int | None) -> Balance | None:
    by_bytes = any(count.bytes for count in counts.values())
    weight = {path: count.bytes if by_bytes else count.messages for path, count in counts.items()}
    total = sum(weight.values())
    if not total:
        return None
    known = {path: part for path, part in weight.items() if path >= 0}
    imbalance = None
    if known and sum(known.values()) == total and (npaths or len(known)) > 1:
        imbalance = round(max(known.values()) * (npaths or len(known)) / total, 3)
    shares = [PathShare(path_or_none(path), *counts[path], round(part / total, 4)) for path, part in weight.items()]
    return Balance(address_text(source), address_text(destination), shares, imbalance)
