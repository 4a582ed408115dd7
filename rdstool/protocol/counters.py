"""Statistics under the kernel's names (protocol.md §11.2), and rdstool's own for what it refuses."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """What a node has counted since it began. Those about the kernel's locks, pages and RDMA stay 0 over TCP."""

    # The core, in the kernel's order.
    conn_reset: int = 0
    recv_drop_bad_checksum: int = 0
    recv_drop_old_seq: int = 0
    recv_drop_no_sock: int = 0
    recv_drop_dead_sock: int = 0
    recv_deliver_raced: int = 0
    recv_delivered: int = 0
    recv_queued: int = 0
    recv_immediate_retry: int = 0
    recv_delayed_retry: int = 0
    recv_ack_required: int = 0
    recv_rdma_bytes: int = 0
    recv_ping: int = 0
    send_queue_empty: int = 0
    send_queue_full: int = 0
    send_lock_contention: int = 0
    send_lock_queue_raced: int = 0
    send_immediate_retry: int = 0
    send_delayed_retry: int = 0
    send_drop_acked: int = 0
    send_ack_required: int = 0
    send_queued: int = 0
    send_rdma: int = 0
    send_rdma_bytes: int = 0
    send_pong: int = 0
    page_remainder_hit: int = 0
    page_remainder_miss: int = 0
    copy_to_user: int = 0
    copy_from_user: int = 0
    cong_update_queued: int = 0
    cong_update_received: int = 0
    cong_send_error: int = 0
    cong_send_blocked: int = 0
    recv_bytes_added_to_sock: int = 0
    recv_bytes_freed_fromsock: int = 0
    send_stuck_rm: int = 0
    mprds_catchup_tx0_retries: int = 0

    # The InfiniBand transport, without what has no counterpart here: the kernel's interrupts and tasklets, its threads
    # and limits of receive memory, and its pools of memory regions. Each region is made anew and freed, none waits.
    ib_connect_raced: int = 0
    ib_listen_closed_stale: int = 0
    ib_tx_cq_event: int = 0
    ib_tx_ring_full: int = 0
    ib_tx_throttle: int = 0
    ib_tx_credit_updates: int = 0
    ib_rx_cq_event: int = 0
    ib_rx_ring_empty: int = 0
    ib_rx_total_frags: int = 0
    ib_rx_total_incs: int = 0
    ib_rx_credit_updates: int = 0
    ib_ack_sent: int = 0
    ib_ack_send_failure: int = 0
    ib_ack_send_delayed: int = 0
    ib_ack_send_piggybacked: int = 0
    ib_ack_received: int = 0
    ib_rdma_mr_8k_alloc: int = 0
    ib_rdma_mr_8k_free: int = 0
    ib_rdma_mr_8k_used: int = 0
    ib_rdma_mr_1m_alloc: int = 0
    ib_rdma_mr_1m_free: int = 0
    ib_rdma_mr_1m_used: int = 0
    ib_atomic_cswp: int = 0
    ib_atomic_fadd: int = 0

    # The TCP transport.
    tcp_data_ready_calls: int = 0
    tcp_write_space_calls: int = 0
    tcp_sndbuf_full: int = 0
    tcp_connect_raced: int = 0
    tcp_listen_closed_stale: int = 0

    # Not of the kernel: connections refused and connections dropped for what the peer did.
    refused_connections: int = 0
    dropped_oversized: int = 0
    dropped_unfinished: int = 0
    dropped_ping_flood: int = 0
    dropped_overrun: int = 0
    paused_overrun: int = 0
    dropped_misplaced: int = 0
    dropped_unanswered: int = 0
    forgotten_peers: int = 0
    peer_restarts: int = 0
    messages_flushed: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by name, the kernel's first and in its order."""
        return asdict(self)
