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
    """An address cannot be used, or what carries RDS is not to be had."""


__all__ = ["CaptureError", "CodecError", "LabError", "RdsError", "TransportError", "UsageError"]
