"""Conversations over TCP that break one rule of delivery each.

Those of several paths are of old kernels, whose connections can change paths: the two ends' numbering tells which.
"""

from __future__ import annotations

from dataclasses import replace

from tests.kit.rds import OLD, header, text
from tests.kit.tcp import Ack, End, Open, Script, Send, Side, Wait, conversation, opening, single_path
from tests.unit.validate.catalogue import Catalogue

MUTATIONS = Catalogue[Script]()
breaks = MUTATIONS.breaks


def two_paths(*, last_acked: bool = True) -> tuple[Script, Side, Side, Side, Side]:
    """Path 0, then x1 (sockets 4001 and 5001) and x2 (4002 and 5002)."""
    a, b = Side(0), Side(1)
    a1, b1, a2, b2 = Side(0), Side(1), Side(0), Side(1)
    steps = [*opening("p0", 40000, a, b, OLD), Open("x1", 40001), Open("x2", 40002)]
    steps += [a1.data("x1", f"a1.{n}", 4001, 7000, 100 + n) for n in (1, 2)]
    steps += [a2.data("x2", f"a2.{n}", 4002, 7000, 200 + n) for n in range(1, 9)]
    steps += [b2.data("x2", "b2.1", 5002, 7000, 50)]
    steps += [a1.data("x1", "a1.3", 4001, 7000, 103, acked=last_acked)]
    return Script(steps), a1, b1, a2, b2


def cut(script: Script) -> None:
    """Both connections are reset by the end that dials."""
    script.steps += [End("x1", 0, 4), End("x2", 0, 4), Wait(0.5), Open("y1", 40011)]


def exchanged(*, acked: bool) -> Script:
    """A goes on with its first path on a connection where B begins with a path that it never used."""
    script, a1, b1, _, _ = two_paths(last_acked=acked)
    at = script.index("a1.1")
    script.steps.insert(at, b1.data("x1", "b1.1", 5001, 7000, 60))
    cut(script)
    last = script["a1.3"]
    script.steps += [Side(1).data("y1", "b3.1", 5003, 7000, 50)]
    script.steps += [Send("y1", 0, replace(last.header, flags=4), last.payload)]
    script.steps += [a1.data("y1", "a1.4", 4001, 7000, 104)]
    return script


MUTATIONS["RDS-DLV-001"] = lambda: exchanged(acked=True)
MUTATIONS["RDS-DLV-005"] = lambda: exchanged(acked=False)


def dropped(*, copy_seen: bool) -> Script:
    """A's flagged message meets a path of B that expects a higher number."""
    script, a1, _, _, b2 = two_paths(last_acked=not copy_seen)
    last = script["a1.3"]
    if not copy_seen:
        script.drop("a1.3")
    cut(script)
    script.steps += [b2.data("y1", "b2.2", 5002, 7000, 51)]
    script.steps += [Send("y1", 0, replace(last.header, flags=4), last.payload)]
    script.steps += [a1.data("y1", "a1.4", 4001, 7000, 104), End("y1", 0), End("y1", 1)]
    return script


MUTATIONS["RDS-DLV-002"] = lambda: dropped(copy_seen=False)
MUTATIONS["RDS-DLV-004"] = lambda: dropped(copy_seen=True)


@breaks("RDS-DLV-003")
def overtaken() -> Script:
    script = conversation(OLD)
    a = Side(0)
    a.next = script["a.ping"].header.sequence
    script.after(
        "a2.1", a.data("p0", "late", 4001, 7000, 30), Send("p0", 0, replace(script["a.ping"].header, sequence=a.next))
    )
    script.drop("a.ping")
    script.change("a.ping2", sequence=a.next + 1)
    # The ping went behind the late message.
    ping = script.index("late") + 1
    script.steps[ping + 1 : ping + 1] = [script["b.pong"]]
    script.drop("b.pong")
    return script


def cut_single(first: int) -> Script:
    """One path; the last message is not acknowledged, and the next connection begins with number ``first``."""
    script, a, b = single_path()
    script["a3"].acked = False
    script.steps += [End("one", 0, 4), Wait(0.5), Open("two", 40001)]
    a.next = first
    script.steps += [a.bitmap("two", "a.bitmap2"), b.bitmap("two", "b.bitmap2")]
    return script


@breaks("RDS-DLV-006")
def not_sent_again() -> Script:
    script = cut_single(4)
    script.steps += [Send("two", 0, header(4, 20, 4001, 7000), text(20))]
    return script


@breaks("RDS-DLV-007")
def numbers_missing() -> Script:
    script = cut_single(6)
    last = script["a3"]
    script.steps += [Send("two", 0, replace(last.header, flags=4), last.payload)]
    script.steps += [Send("two", 0, header(6, 20, 4001, 7000, flags=4), text(20))]
    return script


@breaks("RDS-DLV-008")
def paths_exchanged() -> Script:
    script, a1, b1, _, b2 = two_paths()
    script.after("a1.1", b1.data("x1", "b1.1", 5001, 7000, 60))
    cut(script)
    script.steps += [a1.data("y1", "a1.4", 4001, 7000, 104), b2.data("y1", "b2.2", 5002, 7000, 51)]
    return script


@breaks("RDS-DLV-009")
def given_up_unread() -> Script:
    a, b = Side(0), Side(1)
    return Script(
        [
            Open("one", 40000),
            a.bitmap("one", "a.bitmap"),
            a.data("one", "a1", 4001, 7000, 40),
            End("one", 1),
            Ack("one", 1),
            End("one", 0),
            Open("two", 40001),
            a.bitmap("two", "a.bitmap2"),
            b.bitmap("two", "b.bitmap2"),
            a.data("two", "a2", 4001, 7000, 50),
            b.data("two", "b1", 7000, 4001, 50),
        ]
    )
