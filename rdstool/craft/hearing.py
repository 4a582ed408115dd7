"""What a peer does on one connection, as it is told and as it waits to be asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dissectors.wire.extensions import parse_extensions
from dissectors.wire.rds import RdsHeader
from rdstool.craft.scenario import EXTENSION_FIELDS

KEPT_MESSAGES = 10_000
"""Things that a peer did and that no step has asked for yet. Beyond this the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Came:
    """Something that the peer did: a message, an answer, or the end of the connection."""

    what: str
    """One of the language's ``outcomes``."""
    header: RdsHeader | None = None
    values: Mapping[str, int] = field(default_factory=dict)
    """What an answer without such a header has in it."""

    def field(self, name: str) -> int | None:
        """A number in the header, in one of a handshake's extension headers, or in the answer; None where it is not."""
        if self.header is None:
            return self.values.get(name)
        if name not in EXTENSION_FIELDS:
            found = getattr(self.header, name, None)
            return None if found is None else int(found)
        items = parse_extensions(self.header.exthdr).items
        return next((int(getattr(item, name)) for item in items if hasattr(item, name)), None)

    @property
    def has_fields(self) -> bool:
        """There is something to compare."""
        return self.header is not None or bool(self.values)

    def words(self) -> str:
        """What was heard, in words for people."""
        header = self.header
        if header is None:
            return " ".join([self.what, *(f"{name} {value:#x}" for name, value in self.values.items())])
        handshake = "".join(
            f" {name} {self.field(name)}" for name in ("npaths", "gen_num") if self.field(name) is not None
        )
        return (
            f"{self.what} seq {header.sequence} {header.sport} > {header.dport} len {header.length}"
            f"{f' flags {header.flags:#04x}' if header.flags else ''}{handshake}"
        )


Hear = Callable[["Hearing", Came], None]


class Hearing:
    """One connection's news. ``news`` is called with each thing that comes."""

    def __init__(self, name: str, news: Hear) -> None:
        self.name = name
        """Name of the scenario's path; empty for none."""
        self.inbox: deque[Came] = deque(maxlen=KEPT_MESSAGES)
        """What has come and was not asked for yet."""
        self.ended: str | None = None
        """The outcome that ended it, once the peer has."""
        self._news = news

    def tell(self, what: str, header: RdsHeader | None = None, values: Mapping[str, int] | None = None) -> None:
        """Something has come."""
        came = Came(what, header, values or {})
        self.inbox.append(came)
        self._news(self, came)

    def end_with(self, how: str, values: Mapping[str, int] | None = None) -> None:
        """The peer has ended it; only the first end counts."""
        if self.ended is None:
            self.ended = how
            self.tell(how, None, values)
