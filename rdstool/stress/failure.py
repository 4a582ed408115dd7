"""What ends a run."""

from __future__ import annotations

from rdstool.errors import RdsError


class StressError(RdsError):
    """The peer, or what is between, did what a run of rds-stress does not allow."""


class RdmaFailedError(StressError):
    """An RDMA was not done. That of a peer which ends the run just then fails, too."""
