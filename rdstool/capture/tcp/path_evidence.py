"""How likely each path is for a TCP connection, from the order of connections and the hash of RDS ports.

Bayes' rule weighs the two sources against each other, and what remains of the doubt is the stated confidence:

* the order in which connections were opened: path 0, then 1, 2, ...; a new one takes the place of one that ended;
* the hash of the RDS source ports: one socket uses one path, and which one follows from its port. The first socket
  that is bound after the module was loaded is exempt (its hash is salted), so several ports have to agree.

All is from the side that dials (the smaller address). Up to Linux 6.x the other side may number a connection
differently; where its messages say so, the basis tells (protocol.md §4.3, 5.4, 13).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from dissectors.wire.extensions import GenNum, NPaths, SportIdx, parse_extensions
from dissectors.wire.rds import MAX_PATHS
from rdstool.capture.streams import Stream
from rdstool.protocol.pathhash import path_of_port

STRAY_PORT = 0.1
"""Chance that a port does not follow the hash: the exempt socket, or a message sent before the handshake."""
EARLY = 0.05
"""Chance that a path 0 is of the time before the handshake, when it carries the messages of all sockets."""
ORDER_TRUST = 0.6
"""Weight of the order of opening where nothing else is known."""
FIRST_TRUST = 0.8
"""The same for the first connection of an address pair that was seen from its SYN."""
ONLY_TRUST = {True: 0.95, False: 0.7}
"""Weight of "this is the only connection", by whether it was seen from its SYN."""
PORT_RULE_ODDS = 0.5
"""Odds that TCP source ports tell the path, before any evidence, where no handshake was captured."""
SWAP_ODDS = 0.01
"""Odds that a side hashes ports in the other byte order, before any evidence."""
LEAST_CONFIDENCE = 0.5
"""A path that is less likely than this is not named."""
SURE = 0.75
"""A path of this confidence is denied to other connections of the same time."""
MOST_CONFIDENCE = 0.99
"""No inference is surer than this; 1.0 is for what the protocol itself says."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a probe or its reply says about the side that sent it (protocol.md §5.1)."""

    npaths: int | None = None
    gen_num: int | None = None
    sport_idx: bool = False

    @classmethod
    def of(cls, exthdr: bytes) -> Announcement:
        """Read the 16 bytes of ``h_exthdr``; a later extension of a type overrides an earlier one, as in the kernel."""
        npaths = gen_num = None
        sport_idx = False
        for item in parse_extensions(exthdr).items:
            match item:
                case NPaths(count):
                    npaths = count
                case GenNum(number):
                    gen_num = number
                case SportIdx():
                    sport_idx = True
        return cls(npaths, gen_num, sport_idx)


Ports = tuple[int, ...]
"""RDS source ports seen in one direction of a connection, each once. Few ports, but perhaps of very many streams."""


def tally(ports: Ports, npaths: int, swapped: bool) -> list[int]:
    """How many of the ports have hashes that name each of ``npaths`` paths."""
    votes = [0] * npaths
    for port in ports:
        hashed = (port & 0xFF) << 8 | port >> 8 if swapped else port
        # A path is the hash under the mask npaths - 1, so fewer paths only drop bits of it.
        votes[path_of_port(hashed, MAX_PATHS) & (npaths - 1)] += 1
    return votes


class Common(NamedTuple):
    """What the connections of a pair tell about each other."""

    npaths: int | None
    several: bool
    sport_idx: bool | None
    by_source_port: float = 0.0
    """Chance that TCP source ports tell the path."""
    swapped: tuple[bool, bool] = (False, False)
    """The dialling and the other side hash ports in the other byte order."""


@dataclass(slots=True)
class Connection:
    """What is known of one TCP connection."""

    stream: Stream
    dialled: int
    """TCP port of the dialling end."""
    dialler: int
    """Direction of what the dialling end sends."""
    by_larger: bool
    """Opened from the larger address: no kernel uses it as a path."""
    ports: tuple[Ports, Ports] = ((), ())
    """RDS source ports seen, by direction."""
    probed: bool = False
    closed: int | None = None
    """Frame of the first FIN or RST."""
    looks: int = 0
    """Batches that brought evidence."""
    stale: bool = True
    """There is news since its path was judged."""
    weighed: bool = False
    guess: tuple[int, float] | None = None
    """The path that the order of opening suggests, and how much that is trusted."""

    def add_port(self, direction: int, port: int) -> bool:
        """Count an RDS source port; False where it was counted before."""
        if port in self.ports[direction]:
            return False
        self.ports = _with_port(self.ports, direction, port)
        return True


@lru_cache(4096)
def _with_port(ports: tuple[Ports, Ports], direction: int, port: int) -> tuple[Ports, Ports]:
    """One object for all connections on which the same ports were seen."""
    forward, back = ports
    return (forward, (*back, port)) if direction else ((*forward, port), back)


@dataclass(slots=True)
class AddressPair:
    """The connections between two addresses."""

    open: list[Connection]
    announced: tuple[Announcement | None, Announcement | None] = (None, None)
    """What the smaller and what the larger address announced."""
    released: tuple[int, ...] = ()
    """Paths whose connection ended and was not followed by another yet, the longest free first."""
    several: bool = False
    """Two connections carried messages at the same time."""
    common: Common | None = None
    """What the latest judgements were made with."""

    @property
    def npaths(self) -> int | None:
        """Paths that both sides agree on; None where no handshake was seen."""
        said = [one.npaths or 1 for one in self.announced if one is not None]
        return max(1, min(MAX_PATHS, *said)) if said else None

    @property
    def sport_idx(self) -> bool | None:
        """The dialling side chooses TCP source ports by path; None where it was not heard."""
        said = self.announced[0]
        return said.sport_idx if said else None


# A hundred thousand pairs without a word about paths have this in common.
_plain = lru_cache(64)(Common)


def weigh_in_common(pair: AddressPair) -> Common:
    """What holds for all connections of a pair, from what is known now."""
    npaths = pair.npaths
    if npaths == 1 or pair.sport_idx or (npaths is None and not pair.several):
        return _plain(npaths, pair.several, pair.sport_idx)
    count = npaths or MAX_PATHS
    swapped = _byte_swapped(pair.open, True, count), _byte_swapped(pair.open, False, count)
    chance = 0.0 if pair.sport_idx is False else _chance_by_source_port(pair.open, count, swapped[0])
    return Common(npaths, pair.several, pair.sport_idx, chance, swapped)


def _chance_by_source_port(connections: list[Connection], npaths: int, swapped: bool) -> float:
    """Chance that TCP source ports tell the path where no handshake says so: by how they fit the hash."""
    odds = PORT_RULE_ODDS
    for connection in connections:
        best, likelihood = _best(_likelihoods(connection.ports[connection.dialler], npaths, swapped))
        if likelihood > LEAST_CONFIDENCE:
            odds *= npaths * (1 - STRAY_PORT) if best == connection.dialled % npaths else STRAY_PORT
    return round(odds / (1 + odds), 2)


def _byte_swapped(connections: list[Connection], dialling: bool, npaths: int) -> bool:
    """A side hashes the port's bytes in the other order, as older stable kernels and UEK do (protocol.md §5.4)."""
    odds, counted = SWAP_ODDS, set[int]()
    several = [connection.ports[connection.dialler ^ (not dialling)] for connection in connections]
    for ports in sorted(several, key=len, reverse=True):
        # The same sockets again, on a connection that follows another, are no further evidence.
        if not counted.issuperset(ports):
            odds *= sum(_fits(ports, npaths, True)) / sum(_fits(ports, npaths, False))
            counted.update(ports)
    return odds > 1


def guess_of(
    connection: Connection, pair: AddressPair, holders: dict[int, Connection], npaths: int
) -> tuple[int, float] | None:
    """The path that the order of opening suggests; None where the beginning was not captured."""
    if not connection.stream.from_start or connection.by_larger:
        return None
    if pair.released:
        return pair.released[0], ORDER_TRUST
    if not holders and connection is pair.open[0]:
        return 0, FIRST_TRUST
    free = next((path for path in range(npaths) if path not in holders), None)
    return None if free is None else (free, ORDER_TRUST)


def leave_to_stronger(connection: Connection, others: list[Connection], npaths: int) -> bool:
    """Two connections cannot be one path at one time: where a surer one has it, change the guess; True if changed."""
    if connection.stream.path_confidence >= SURE:
        return False
    taken = {
        other.stream.path
        for other in others
        if other is not connection and other.stream.path_confidence >= SURE and _at_one_time(connection, other)
    }
    if connection.stream.path >= 0 and connection.stream.path not in taken:
        return False
    left = [path for path in range(npaths) if path not in taken]
    guess = (left[0], ORDER_TRUST) if len(left) == 1 and connection.stream.from_start else None
    changed = guess != connection.guess
    connection.guess = guess
    return changed


def _at_one_time(one: Connection, other: Connection) -> bool:
    first, second = sorted((one, other), key=lambda connection: connection.stream.first_frame)
    return first.closed is None or first.closed > second.stream.first_frame


Verdict = tuple[int, float, str]
"""Path (-1: not known), confidence 0..1, and the basis in words."""


def judge(connection: Connection, pair: AddressPair) -> Verdict:
    """Path, confidence and basis of one connection: what is certain first, else what is likely."""
    common = pair.common or weigh_in_common(pair)
    npaths = common.npaths
    if connection.probed:
        return 0, 1.0, "carried a probe, which travels on path 0"
    if connection.by_larger:
        return -1, 0.0, "opened by the larger address, never used as a path"
    if npaths == 1:
        return 0, 1.0, "a single path was agreed"
    if npaths is not None and common.sport_idx:
        # Where the number of paths does not divide 8, the dialling side chooses its port by 8, the other reads it
        # modulo the number: they do not mean the same path.
        sure = MAX_PATHS % npaths == 0
        basis = f"TCP source port {connection.dialled} mod {npaths}, SPORT_IDX announced"
        return connection.dialled % npaths, 1.0 if sure else LEAST_CONFIDENCE, basis
    if npaths is None and not common.several:
        return _only_connection(connection.ports, connection.stream.from_start)
    return _infer(connection, common)


def _infer(connection: Connection, common: Common) -> Verdict:
    """The likeliest path by order, TCP source port and RDS ports."""
    npaths, rule = common.npaths, common.by_source_port
    count = npaths or MAX_PATHS
    ours = _likelihoods(connection.ports[connection.dialler], count, common.swapped[0])
    theirs = _likelihoods(connection.ports[1 - connection.dialler], count, common.swapped[1])
    (mine, mine_sure), (other, other_sure) = _best(ours), _best(theirs)
    note = "" if npaths else f"; {MAX_PATHS} paths assumed"
    if mine != other and min(mine_sure, other_sure) > LEAST_CONFIDENCE:
        theirs = [1 / count] * count
        note += f"; the other side's messages fit path {other}"
    prior = _prior(connection, count, rule)
    path, confidence = _best(_normal([p * a * b for p, a, b in zip(prior, ours, theirs, strict=True)]))
    if confidence < LEAST_CONFIDENCE:
        return -1, 0.0, "not known"
    return path, _stated(confidence), _basis(connection, path, count, common) + note


@lru_cache(4096)
def _only_connection(sides: tuple[Ports, Ports], from_start: bool) -> Verdict:
    """No handshake and one connection at a time: a single path, or one of several whose others were not captured."""
    votes = [sum(counts) for counts in zip(*(tally(side, MAX_PATHS, False) for side in sides), strict=True)]
    ports = sum(votes)
    trust = ONLY_TRUST[from_start]
    hit, miss = 1 - STRAY_PORT, STRAY_PORT / (MAX_PATHS - 1)
    single = trust * MAX_PATHS**-ports
    lanes = [(1 - trust) / MAX_PATHS * hit**count * miss ** (ports - count) for count in votes]
    path, _ = _best(lanes)
    total = single + sum(lanes)
    if path and lanes[path] > single:
        basis = f"only connection, but the hash of {votes[path]} of {ports} RDS ports says path {path}"
        return path, _stated(lanes[path] / total), basis
    return 0, _stated((single + lanes[0]) / total), "only connection"


def _stated(chance: float) -> float:
    """The confidence that is stated of an inference."""
    return round(min(chance, MOST_CONFIDENCE), 3)


def _prior(connection: Connection, count: int, rule: float) -> list[float]:
    """Chance of each path before its messages are looked at."""
    if rule > ORDER_TRUST:
        favourite, trust = connection.dialled % count, rule
    elif connection.guess is not None and connection.guess[0] < count:
        favourite, trust = connection.guess
    else:
        return [1 / count] * count
    return [trust if path == favourite else (1 - trust) / (count - 1) for path in range(count)]


def _basis(connection: Connection, path: int, count: int, common: Common) -> str:
    """The grounds in words."""
    grounds = []
    fits = sum(
        tally(connection.ports[connection.dialler ^ other], count, common.swapped[other])[path] for other in (0, 1)
    )
    ours = connection.ports[connection.dialler]
    if path == 0 and len(ours) and max(tally(ours, count, common.swapped[0])) < len(ours) / 2:
        grounds.append(f"{len(ours)} RDS ports of all paths, as before the handshake")
    elif fits:
        grounds.append(f"hash of {fits} of {sum(map(len, connection.ports))} RDS ports")
    if common.by_source_port > ORDER_TRUST and path == connection.dialled % count:
        grounds.append(f"TCP source port {connection.dialled}")
    elif connection.guess is not None and connection.guess[0] == path:
        grounds.append("order and number of connections")
    return ", ".join(grounds)


def _likelihoods(ports: Ports, npaths: int, swapped: bool) -> list[float]:
    """How well each path explains that these ports were seen on one connection; they sum to 1."""
    return _normal(_fits(ports, npaths, swapped)) if len(ports) else [1 / npaths] * npaths


def _fits(ports: Ports, npaths: int, swapped: bool) -> list[float]:
    """Chance of these ports' hashes for each path."""
    hit, miss = 1 - STRAY_PORT, STRAY_PORT / max(1, npaths - 1)
    fits = [hit**count * miss ** (len(ports) - count) for count in tally(ports, npaths, swapped)]
    # Before the handshake all sockets use path 0, whatever their hash.
    fits[0] = max(fits[0], EARLY / float(npaths) ** len(ports))
    return fits


def _normal(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / len(weights)] * len(weights)


def _best(chances: list[float]) -> tuple[int, float]:
    best = max(range(len(chances)), key=chances.__getitem__)
    return best, chances[best]
