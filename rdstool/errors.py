"""rdstool's exceptions. Each message is one line that says what is wrong and what to do about it."""

from __future__ import annotations

from dissectors.wire.errors import CodecError, RdsError


class CaptureError(RdsError):
    """A capture that cannot be read, or not beyond ``position``.

    ``position`` is the byte of the (uncompressed) file at which it went bad, or None.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class LabError(RdsError):
    """A kernel, its guest or its network that cannot be had, or broke down."""


class UsageError(RdsError):
    """A wrong argument: a filter, a field name, a rule id, an option's value."""


class TransportError(RdsError):
    """A transport that cannot do what is asked of it: an address that is taken, a queue that is full."""


class AddressError(TransportError, OSError):
    """An address that a node cannot have: ``errno`` says why, as after ``bind``."""

    def __init__(self, number: int | None, message: str) -> None:
        OSError.__init__(self, number, message)

    def __str__(self) -> str:
        return str(self.strerror)


class TsharkError(RdsError):
    """tshark is missing, too old or failed, or its plugin cannot be put where it looks."""


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of several failures; the others follow from it."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


__all__ = [
    "AddressError",
    "CaptureError",
    "CodecError",
    "LabError",
    "RdsError",
    "TransportError",
    "TsharkError",
    "UsageError",
    "first_of",
]
