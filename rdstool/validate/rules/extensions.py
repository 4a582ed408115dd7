"""RDS-EXT: the extension headers. Only rows that have some are looked at, and each distinct field is parsed once."""

from __future__ import annotations

import numpy as np

from dissectors.wire.extensions import (
    EXTENSION_BYTES,
    HANDSHAKE,
    TYPE_OF,
    UEK_ONLY,
    Extension,
    ExtensionType,
    GenNum,
    NPaths,
    ParsedExtensions,
    Rdma,
    RdmaBytes,
    RdmaDest,
    RdmaDirection,
    Unknown,
)
from dissectors.wire.rds import MAX_PATHS, Flags
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.parsed import extensions_at, field_of
from rdstool.validate.rule import BOTH, ERROR, IB, NOTE, TCP, WARNING, Rule, Severity
from rdstool.validate.view import View

_SOURCE = "net/rds/message.c"
MAX_HOSTS = 65536
"""Addresses whose generation number is remembered."""
_RDMA_TYPES = frozenset({ExtensionType.RDMA, ExtensionType.RDMA_DEST, ExtensionType.RDMA_BYTES})

PARSE = Rule(
    "RDS-EXT-001",
    ERROR,
    "Extension headers cannot be parsed",
    BOTH,
    "2",
    _SOURCE,
    "Types follow one another up to type 0 or the end of the 16 bytes; a type of 16 or more, or an entry that would "
    "pass the end, breaks the chain.",
    "Parsing stops there: what follows, an RDMA key or a path count, is lost.",
    "Check the sender's generation of RDS; on a stream with holes suspect a lost boundary.",
)
TAIL = Rule(
    "RDS-EXT-002",
    WARNING,
    "Bytes after the last extension header are not zero",
    BOTH,
    "2",
    _SOURCE,
    "The field is zero-filled behind the terminator.",
    "Receivers stop at the terminator and ignore the rest.",
    "The sender does not clear the field, or an entry was cut off by a zero type before it.",
)
TWICE = Rule(
    "RDS-EXT-003",
    WARNING,
    "An extension header type occurs twice",
    BOTH,
    "2",
    _SOURCE,
    "Kernels add each type once.",
    "All entries are processed in turn; the later overrides the earlier.",
    "Check the sender.",
)
FOREIGN = Rule(
    "RDS-EXT-004",
    NOTE,
    "An extension header that mainline kernels do not send",
    BOTH,
    "2",
    _SOURCE,
    "VERSION is never sent by current kernels, CAP_BITS and CSUM are of Oracle's kernel (UEK), others are unknown.",
    "A mainline receiver takes an unknown type below 16 as one without payload and goes on with its payload as types.",
    "Expect misreadings where such a peer talks to a mainline kernel.",
)
HANDSHAKE_ONLY = Rule(
    "RDS-EXT-005",
    WARNING,
    "NPATHS, GEN_NUM or SPORT_IDX outside of the handshake",
    TCP,
    "5.1",
    "net/rds/send.c, recv.c",
    "The multipath handshake travels in probes (port 1 to 0) and their answers (0 to 1) only.",
    "Receivers process these types in handshake messages only and ignore them elsewhere.",
    "Check the sender.",
)
PATH_COUNT = Rule(
    "RDS-EXT-006",
    WARNING,
    "A handshake without a path count of 1 to 8",
    TCP,
    "5.2",
    "net/rds/recv.c",
    "A probe or answer with extension headers carries NPATHS; kernels send 8. More than 8 is a note: it is capped.",
    "Without NPATHS the receiver keeps the count that it had; 0 becomes 1, more than 8 becomes 8.",
    "An endpoint without multipath leaves out all extension headers.",
)
GENERATION = Rule(
    "RDS-EXT-007",
    NOTE,
    "The generation number of a host is 0 or changed",
    TCP,
    "5.5",
    "net/rds/recv.c, message.c",
    "GEN_NUM is drawn when the module is loaded: another value from the same address means that its kernel restarted.",
    "0 is ignored. On a change the receiver starts all numbering again and drops what waits for acknowledgement.",
    "Messages in flight at a restart are lost by design; see when the host restarted.",
)
EXTENSION_FLAG = Rule(
    "RDS-EXT-008",
    WARNING,
    "Flag 0x20 and RDMA_BYTES do not go together",
    IB,
    "1, 2",
    "net/rds/ib_send.c",
    "Kernels set EXTHDR_EXTENSION exactly where they add RDMA_BYTES.",
    "The flag is ignored on receipt.",
    "Check the sender.",
)
BYTES_FORM = Rule(
    "RDS-EXT-009",
    WARNING,
    "RDMA_BYTES is malformed or stands alone",
    IB,
    "2",
    "net/rds/ib_send.c",
    "RDMA_BYTES comes behind RDMA in the same message; its direction is 1 (write) or 2 (read) and its pad is zero.",
    "Mainline ignores the extension.",
    "Check the sender.",
)
NO_RDMA = Rule(
    "RDS-EXT-010",
    WARNING,
    "RDMA extension headers over TCP",
    TCP,
    "8.3",
    "net/rds/send.c, rdma.c",
    "There is no RDMA over TCP: the socket calls that would add these headers fail.",
    "The receiver looks for a memory region with that key and finds none.",
    "Check the sender.",
)
RDMA_AND_DEST = Rule(
    "RDS-EXT-011",
    WARNING,
    "RDMA and RDMA_DEST in one message",
    IB,
    "8.3",
    "net/rds/send.c",
    "A message either follows an RDMA operation or offers memory: the control messages exclude each other, and both do "
    "not fit together with RDMA_BYTES.",
    "The receiver does both: it releases one region and hands the other's key to the application.",
    "Check the sender.",
)


def _name(item: Extension | Unknown) -> str:
    return f"type {item.type}" if isinstance(item, Unknown) else TYPE_OF[type(item)].name


class ExtensionCheck(Check):
    """Looks at rows whose extension field is not all zero."""

    rules = (
        PARSE,
        TAIL,
        TWICE,
        FOREIGN,
        HANDSHAKE_ONLY,
        PATH_COUNT,
        GENERATION,
        EXTENSION_FLAG,
        BYTES_FORM,
        NO_RDMA,
        RDMA_AND_DEST,
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._generations: dict[bytes, int] = {}

    def feed(self, batch: Batch) -> None:
        """Parse what there is."""
        view = batch.view
        rows = np.flatnonzero(view.extended)
        flag = (view.flags & Flags.EXTHDR_EXTENSION) != 0
        bare = flag & ~view.extended & view.ib
        self.report.rows(EXTENSION_FLAG, view, bare, lambda i: "flag 0x20 is set, but there is no RDMA_BYTES")
        tcp, kinds = view.tcp, view.kind
        for index in rows.tolist():
            parsed = extensions_at(view, index)
            self._form(view, index, parsed)
            if tcp[index]:
                self._over_tcp(view, index, MessageKind(int(kinds[index])), parsed)
            else:
                self._over_ib(view, index, parsed, bool(flag[index]))

    def _say(self, rule: Rule, view: View, index: int, text: str, severity: Severity | None = None) -> None:
        self.report.row(rule, view, index, text, severity)

    def _form(self, view: View, index: int, parsed: ParsedExtensions) -> None:
        if parsed.problem is not None:
            self._say(PARSE, view, index, parsed.problem)
        elif any(field_of(view, index)[parsed.used :]):
            rest = field_of(view, index)[parsed.used : EXTENSION_BYTES].hex()
            self._say(TAIL, view, index, f"behind the terminator stands {rest}")
        names = [_name(item) for item in parsed.items]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self._say(TWICE, view, index, f"{name} occurs {names.count(name)} times")
        for item in parsed.items:
            kind = None if isinstance(item, Unknown) else TYPE_OF[type(item)]
            if kind is None or kind in UEK_ONLY or kind is ExtensionType.VERSION:
                self._say(FOREIGN, view, index, f"{_name(item)} is present")

    def _over_tcp(self, view: View, index: int, kind: MessageKind, parsed: ParsedExtensions) -> None:
        types = {TYPE_OF[type(item)] for item in parsed.items if not isinstance(item, Unknown)}
        shake = kind in (MessageKind.PROBE, MessageKind.PROBE_REPLY)
        for foreign in sorted(types & HANDSHAKE if not shake else ()):
            self._say(HANDSHAKE_ONLY, view, index, f"{foreign.name} in a {kind.label} message")
        for foreign in sorted(types & _RDMA_TYPES):
            self._say(NO_RDMA, view, index, f"{foreign.name} over TCP")
        if not shake or parsed.problem is not None:
            return
        counts = [item.npaths for item in parsed.items if isinstance(item, NPaths)]
        if not counts or not counts[-1]:
            self._say(PATH_COUNT, view, index, f"{kind.label} with {'NPATHS 0' if counts else 'no NPATHS'}")
        elif counts[-1] > MAX_PATHS:
            self._say(PATH_COUNT, view, index, f"NPATHS is {counts[-1]}, receivers cap it at 8", Severity.NOTE)
        for item in parsed.items:
            if isinstance(item, GenNum):
                self._generation(view, index, item.gen_num)

    def _generation(self, view: View, index: int, number: int) -> None:
        source, _ = self.context.streams[int(view.stream[index])].ends(int(view.flow[index]) & 1)
        before = self._generations.get(source.address)
        if not number:
            self._say(GENERATION, view, index, f"{source.host} announces generation 0")
        elif before is not None and before != number:
            text = f"{source.host} restarted: generation 0x{before:08x} became 0x{number:08x}"
            self._say(GENERATION, view, index, text)
        if number and (before is not None or len(self._generations) < MAX_HOSTS):
            self._generations[source.address] = number

    def _over_ib(self, view: View, index: int, parsed: ParsedExtensions, flag: bool) -> None:
        amounts = [item for item in parsed.items if isinstance(item, RdmaBytes)]
        if bool(amounts) != flag and parsed.problem is None:
            there = "there is no RDMA_BYTES" if flag else "RDMA_BYTES is present"
            self._say(EXTENSION_FLAG, view, index, f"flag 0x20 is {'set' if flag else 'clear'}, but {there}")
        kinds = [type(item) for item in parsed.items]
        for amount in amounts:
            if Rdma not in kinds[: kinds.index(RdmaBytes)]:
                self._say(BYTES_FORM, view, index, "RDMA_BYTES without RDMA before it")
            elif amount.direction not in list(RdmaDirection):
                self._say(BYTES_FORM, view, index, f"direction of RDMA_BYTES is {amount.direction}")
            elif any(amount.padding):
                self._say(BYTES_FORM, view, index, f"pad of RDMA_BYTES is {amount.padding.hex()}")
        if Rdma in kinds and RdmaDest in kinds:
            self._say(RDMA_AND_DEST, view, index, "both are present")
