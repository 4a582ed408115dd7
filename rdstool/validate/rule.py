"""What a rule is, and what a rule found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """A kernel drops, misreads, loses or doubles data."""
    WARNING = "warning"
    """Kernels never do this, or data may be lost."""
    NOTE = "note"
    """Worth knowing; not a fault by itself."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


TCP = ("tcp",)
IB = ("ib",)
BOTH = ("tcp", "ib")
ERROR, WARNING, NOTE = Severity


@dataclass(frozen=True, slots=True)
class Rule:
    """One promise that RDS traffic keeps. The id is never renumbered or used again."""

    id: str
    severity: Severity
    title: str
    transports: tuple[str, ...]
    section: str
    """Section of protocol.md, without the sign."""
    source: str
    """Kernel files that the promise was read in."""
    why: str
    """What is checked, and why it matters."""
    kernel: str
    """What a kernel does with traffic that breaks it."""
    advice: str
    """What to do about a finding."""
    unbroken: bool = False
    """Concludes nothing across a hole in the capture, or before message boundaries were found."""
    on_request: bool = False
    """Needs every payload, so it runs only where it is selected by name."""

    @property
    def area(self) -> str:
        """The rule's area, such as ``RDS-SEQ``."""
        return self.id.rpartition("-")[0]

    @property
    def reference(self) -> str:
        """Where the promise is written down."""
        return f"protocol.md §{self.section}; {self.source}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that was broken, and the evidence."""

    rule: str
    severity: Severity
    message: str
    frame: int
    number: int | None
    """Number of the message, None where the finding is not about one."""
    stream: int | None
    time: int
    """ns since 1970."""
    reference: str

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts findings by the place in the capture."""
        return self.frame, self.number or 0, self.rule
