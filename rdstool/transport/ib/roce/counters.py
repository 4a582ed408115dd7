"""What a device has seen: one number for each thing worth knowing when something does not work."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Counts since the device was made."""

    datagrams_sent: int = 0
    datagrams_received: int = 0
    bytes_sent: int = 0
    """UDP payload, ICRC included."""
    bytes_received: int = 0
    sent_again: int = 0
    """Request packets that had been sent before."""
    probes: int = 0
    """Times that the last packet was sent once more, because there was no news of it."""
    timeouts: int = 0
    """Times that nothing was acknowledged for too long."""
    sequence_naks_sent: int = 0
    """Gaps in what came."""
    sequence_naks_received: int = 0
    rnr_naks_sent: int = 0
    rnr_naks_received: int = 0
    fatal_naks_sent: int = 0
    """Invalid request, remote access, remote operational: each ends a queue pair."""
    duplicates: int = 0
    """Requests that had been executed before."""
    ahead: int = 0
    """Requests behind a gap, dropped."""
    stale_responses: int = 0
    """Responses to what is no longer, or was never, asked."""
    responses_missed: int = 0
    bad_icrc: int = 0
    malformed: int = 0
    """Too short or too long, an unknown opcode, a header that is not all there."""
    bad_pkey: int = 0
    no_queue_pair: int = 0
    wrong_peer: int = 0
    """For a queue pair, but from another address than its peer's."""
    not_ready: int = 0
    """For a queue pair that is not, or no longer, connected."""
    mads_received: int = 0
    mads_dropped: int = 0
    """Management datagrams that make no sense, or came faster than they can be answered."""
    requests_refused: int = 0
    """Connection requests answered with REJ by the device itself."""

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)
