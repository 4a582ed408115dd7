"""What ends a run."""

from __future__ import annotations

from rdstool.errors import RdsError


class StressError(RdsError):
    """The peer, or what is between, did what a run of rds-stress does not allow."""
